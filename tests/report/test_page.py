"""The page: what it keeps, what it says, and that names of files stay text."""

import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from ecood import report
from ecood.data.stream import Item
from ecood.data.unused import Unused
from ecood.report import charts, collected, pictures
from ecood.score import Detection
from ecood.statistics import LARGEST
from tests.report import example


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.setdefault(self.found[-1][1].get("id") if self.found else None, []).append(data)


@pytest.fixture(scope="module")
def elements():
    return Elements(example.page())


def detection(scores):
    return Detection(*(np.float32(scores) for _ in Detection._fields))


def test_names_of_files_are_never_markup(elements):
    page = example.page()
    assert "<img src=x" not in page and "\u202e" not in page
    page.encode("utf-8")  # a name's bytes may be no text
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
            assert attributes["alt"]
    data = json.loads("".join(elements.text["data"]))
    assert example.NASTY in {row["name"] for row in data["rows"]}
    assert "a\\u202eb" in {row["name"] for row in data["rows"]}


def test_what_was_not_taken_is_told_and_is_no_loss():
    page = example.page()
    assert '<p class="note">Not taken for images: 2 .heic.</p>' in page
    assert "<strong>8</strong> could not be used" in page and "<li>torn</li>" in page


def test_nothing_is_asked_of_a_network(elements):
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    policies = [a["content"] for t, a in elements.found if a.get("http-equiv")]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; img-src data:;")


def test_all_images_are_in_the_data_the_most_ood_first(elements):
    rows = json.loads("".join(elements.text["data"]))["rows"]
    scores = example.scorer()(example.images())
    assert [row["order"] for row in rows] == np.argsort(-scores, kind="stable").tolist()
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), -np.sort(-scores))
    cards = [
        attributes for _, attributes in elements.found if "card" in attributes.get("class", "")
    ]
    assert [card["data-row"] for card in cards if "data-row" in card] == [
        str(i) for i in range(example.COUNT)
    ]


def test_each_level_flags_what_is_ood_flags():
    scorer, images = example.scorer(), example.images()
    found = report.levels(scorer, scorer(images))
    assert [level.fpr for level in found] == [0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5]
    n = len(scorer.calibration)
    for level in found:
        assert level.flagged == scorer.is_ood(images, level.fpr).sum()
        assert level.expected == pytest.approx(
            int(level.fpr * (n + 1) + 1e-9) / (n + 1) * len(images)
        )
        assert level.low < level.fpr < level.high
    more = report.levels(scorer, scorer(images), 0.29)
    assert [level for level in more if level.fpr != 0.29] == found
    assert more[6][:2] == (0.29, report.short(scorer.threshold(0.29)))


def test_only_the_most_ood_are_kept(monkeypatch):
    monkeypatch.setattr(collected, "ROWS", 4)
    monkeypatch.setattr(collected, "SHOWN", 2)
    kept = report.Collected()
    for start, scores in ((0, [1, 5, 3]), (3, [5, 2]), (5, [0, 9])):
        images = np.arange(start, start + len(scores), dtype=np.uint8).reshape(-1, 1, 1, 1)
        items = [Item(f"{i[0, 0, 0]}", 0, i) for i in images]
        kept.add(items, detection(scores), np.zeros(len(items), bool))
    assert [row.order for row in kept.rows] == [6, 1, 3, 2]
    assert kept.images.reshape(-1).tolist() == [6, 1]
    np.testing.assert_array_equal(kept.scores, [1, 5, 3, 5, 2, 0, 9])


def test_pictures_stop_where_the_page_would_grow_too_large(monkeypatch):
    monkeypatch.setattr(report, "PICTURES", 20_000)
    page = report.page(example.scorer(), example.collected(), Unused(), {})
    assert 2 < page.count('class="card"') < 40


@pytest.mark.parametrize("name", ["x.npy", "X.NPZ"])
def test_a_page_of_one_image(name):
    kept = report.Collected()
    image = example.images()[:1]
    kept.add([Item(name, 3, image[0])], example.scorer().detect(image), example.KNOWN[:1])
    page = report.page(example.scorer(), kept, Unused(), {})
    assert f"{name} [3]" in page and "First half" not in page


@pytest.mark.parametrize("count", [20, example.COUNT])
def test_images_that_the_scorer_was_made_from_are_shown_and_never_flagged(count):
    kept, known = report.Collected(), np.arange(example.COUNT) >= example.COUNT - count
    items = [Item(f"{i}.png", 0, image) for i, image in enumerate(example.images())]
    kept.add(items, example.scorer().detect(example.images()), known)
    elements = Elements(report.page(example.scorer(), kept, Unused(), {}))
    data = json.loads("".join(elements.text["data"]))
    assert {row["order"] for row in data["rows"] if row["known"]} == {*np.flatnonzero(known)}
    assert all((row["p_value"] is None) == row["known"] for row in data["rows"])
    new = np.concatenate([np.zeros(0, np.float32), kept.scores[~known]])
    assert [level[2] for level in data["levels"]] == [
        level.flagged for level in report.levels(example.scorer(), new)
    ]
    words = " ".join(" ".join("".join(sum(elements.text.values(), [])).split()).split())
    if count < example.COUNT:
        assert "The scorer was made from 20 others of these 130 images" in words
        assert "of 110 new images; if all" in words and "Kolmogorov" in words
    else:
        assert "The scorer was made from all 130 images:" in words
        assert "of 0 new images; if all" in words and "Kolmogorov" not in words


def test_the_histogram_has_the_shares_of_both(monkeypatch):
    monkeypatch.setattr(charts, "BINS", 4)
    found = charts.histogram(np.float32([0, 0, 1, 1]), np.float32([0, 1, 1, 1]))
    assert found.images == "M0 200V66.7H150.0V200.0H300.0V200.0H450.0V66.7H600.0V200Z"
    assert found.calibration == "M0 200V133.3H150.0V200.0H300.0V200.0H450.0V0.0H600.0V200Z"
    assert [tick for _, tick in found.ticks] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_one_far_score_does_not_press_the_rest_together():
    scores = np.append(np.linspace(0, 1, 200), 1e30).astype(np.float32)
    found = charts.histogram(scores, scores[:100])
    assert -0.1 < found.low < 0 < 0.9 < found.high < 1.1


def test_the_time_line_has_blocks_in_order():
    scores = np.repeat(np.float32([0, 1]), 50)
    found = charts.time_line(scores, scores)
    assert len(found.blocks) == 20
    assert [(block.first, block.last) for block in found.blocks[:2]] == [(1, 5), (6, 10)]
    assert [block.score for block in found.blocks] == [0] * 10 + [1] * 10
    assert found.blocks[0].middle > found.blocks[-1].middle  # SVG's y goes down
    assert len(charts.time_line(np.float32([2]), scores).blocks) == 1


@pytest.mark.parametrize("value", [0.0, 5.0, LARGEST])
def test_equal_scores_have_charts(value):
    scores = np.full(7, value, np.float32)
    assert charts.histogram(scores, scores).ticks and charts.time_line(scores, scores).blocks
    assert charts.time_line(np.append(scores, -scores), scores).blocks


def test_maps_are_coloured_from_end_to_end():
    def read(uri):
        import base64

        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))

    found = read(pictures.bits_picture(np.array([[-1.0, 0.0], [8.0, np.nan]])))
    assert found.shape == (2, 2, 3)
    assert (found[0, 0] == found[0, 1]).all() and (found[1, 0] == found[1, 1]).all()
    assert found[1, 0].sum() > 3 * found[0, 0].sum()
    blue, grey, red = read(pictures.difference_picture(np.array([[-4.0, 0.0, 4.0]])))[0]
    assert blue[2] > blue[0] and red[0] > red[2] and len(set(grey.tolist())) == 1
