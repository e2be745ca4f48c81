"""The documentation is current: generated pages, links, and code that is shown twice."""

import importlib.util
import pathlib
import re

import pytest

from ecood.score import export

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


def test_the_api_page_is_that_of_the_docstrings():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    make_api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_api)
    assert make_api.PAGE.read_text() == make_api.page(), "run: python docs/make_api.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        assert not path or (page.parent / path).exists(), f"{page.name} links to {target}"
        if not path:
            assert anchor in anchors, f"{page.name} links to {target}"


def test_the_loader_of_an_export_is_the_same_wherever_it_stands():
    page = (ROOT / "docs" / "export.md").read_text()
    block = re.search(r"```python\n(import jax.*?)```", page, re.DOTALL).group(1)
    shown = re.search(r"To run it:\n\n((?:    .*\n|\n)+)", export.__doc__).group(1)

    def statements(code):
        lines = [line.split("#")[0].strip() for line in code.splitlines()]
        text = "\n".join(line for line in lines if line)
        return text.replace("my_scorer.npz", "scorer.npz").replace("outputs =", "scores =")

    assert statements(block) == statements(shown)


def test_pages_name_no_place_on_anybodys_machine():
    for page in [*PAGES, *(ROOT / "ecood" / "pretrained").glob("*/README.md")]:
        assert not re.search(r"(?<![\w.])/(root|home|work|Users|tmp)/", page.read_text()), page


@pytest.mark.slow
def test_the_memory_page_has_the_numbers_that_its_code_prints(capsys):
    page = (ROOT / "docs" / "memory.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "memory.md", "exec"), names)
    assert names["recall"] == 1

    def rows(text):
        return re.findall(r"^\| (.*) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)

    shown, printed = rows(page), rows(capsys.readouterr().out)
    assert [row[0] for row in shown] == [row[0] for row in printed] and len(shown) == 7
    for these, those in zip(shown, printed, strict=True):
        assert [float(x) for x in these[1:]] == pytest.approx(
            [float(x) for x in those[1:]], abs=3e-3
        )
