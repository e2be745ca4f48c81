"use strict";
(() => {
  const PAGE = 100;
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const [FPR, THRESHOLD, FLAGGED, EXPECTED, LOW, HIGH] = [0, 1, 2, 3, 4, 5];
  const cards = [...document.querySelectorAll(".card")];
  const share = (rate) => `${Number((100 * rate).toPrecision(3))} %`;
  const number = (value, digits) => value === null ? "none"
    : Number(value.toPrecision(digits)).toString();
  const keys = {
    "score": (row) => -row.score,
    "-score": (row) => row.score,
    "order": (row) => row.order,
    "name": (row) => row.name,
    "-similarity": (row) => row.similarity,
    "excess": (row) => row.code_length - row.bits,
    "bits": (row) => -row.bits,
  };
  const columns = ["score", "p_value", "flagged", "similarity", "noise_scale",
    "perturbed_bits", "bits", "code_length"];
  let matching = [];
  let first = 0;

  const level = () => data.levels[Number(find("level").value)];
  const isFlagged = (row) => !row.known && row.score > level()[THRESHOLD];

  function showLevel() {
    const now = level();
    find("told").textContent = share(now[FPR]);
    find("level").setAttribute("aria-valuetext", share(now[FPR]));
    find("flagged").textContent = now[FLAGGED];
    find("expected").textContent = number(now[EXPECTED], 3);
    find("threshold").textContent = number(now[THRESHOLD], 4);
    find("luck").textContent = `${share(now[LOW])} to ${share(now[HIGH])}`;
    const chart = find("histogram").dataset;
    const place = (now[THRESHOLD] - chart.low) / (chart.high - chart.low);
    for (const end of ["x1", "x2"]) {
      find("limit").setAttribute(end, chart.width * Math.min(1, Math.max(0, place)));
    }
    cards.forEach((card) => {
      card.classList.toggle("is-flagged", isFlagged(data.rows[card.dataset.row]));
    });
  }

  function showTable() {
    const table = find("table");
    table.replaceChildren();
    for (const row of matching.slice(first, first + PAGE)) {
      const line = table.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      const name = document.createElement("bdi");
      name.textContent = row.name;
      head.append(name);
      line.append(head);
      for (const column of columns) {
        const cell = line.insertCell();
        cell.textContent = column === "flagged" ? (isFlagged(row) ? "yes" : "")
          : number(row[column], 3);
      }
    }
    const last = Math.min(first + PAGE, matching.length);
    find("where").textContent = matching.length ? `${first + 1} to ${last} of ${matching.length}`
      : "none";
    find("previous").disabled = first === 0;
    find("next").disabled = last === matching.length;
  }

  function show() {
    const status = find("status").value;
    const wanted = find("name").value.toLowerCase();
    const key = keys[find("sort").value];
    const damaged = status === "damaged";
    find("damaged").hidden = !damaged;
    find("scored").hidden = damaged;
    matching = data.rows.filter((row) => (status === "all" || (status === "flagged") ===
      isFlagged(row)) && row.name.toLowerCase().includes(wanted));
    const compare = (a, b) => key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.order - b.order;
    matching.sort(compare);
    const places = new Map(matching.map((row, place) => [row, place]));
    const rowOf = (card) => data.rows[card.dataset.row];
    cards.forEach((card) => { card.hidden = !places.has(rowOf(card)); });
    const visible = cards.filter((card) => !card.hidden);
    visible.sort((a, b) => places.get(rowOf(a)) - places.get(rowOf(b)));
    find("cards").append(...visible);
    find("none").hidden = visible.length > 0;
    const listed = data.rows.length < data.count ? ` of the ${data.rows.length} most OOD` : "";
    find("matching").textContent = damaged ? "" : `${matching.length}${listed} match`;
    first = 0;
    showTable();
  }

  function turn(pages) {
    first += pages * PAGE;
    showTable();
  }

  find("level").addEventListener("input", () => { showLevel(); show(); });
  for (const id of ["status", "sort"]) find(id).addEventListener("change", show);
  find("name").addEventListener("input", show);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  showLevel();
  show();
})();
