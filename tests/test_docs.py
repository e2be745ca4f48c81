"""The documentation is current: the API reference, links, and code that is shown twice."""

import importlib
import pathlib
import re
import shlex
import types

import jax
import numpy as np
import pdoc.__main__
import pytest
from PIL import Image

import ecood.score
from ecood import data, splits
from ecood.detector import scores
from ecood.score import export

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


def test_the_api_reference_has_all_that_is_public_and_no_warning(tmp_path):
    (command,) = re.findall(r"python -m pdoc (.*)", (ROOT / "docs" / "README.md").read_text())
    words = shlex.split(command)
    words[words.index("-o") + 1] = str(tmp_path)
    words[words.index("-t") + 1] = str(ROOT / words[words.index("-t") + 1])
    pdoc.__main__.cli(words)
    pages = sorted(tmp_path.rglob("ecood*/*.html"))
    assert len(pages) > 25
    for page in pages:
        name = ".".join(page.relative_to(tmp_path).with_suffix("").parts)
        module, text = importlib.import_module(name), page.read_text()
        for member in getattr(module, "__all__", ()):
            if not isinstance(getattr(module, member), types.ModuleType):
                assert f'id="{member}"' in text, f"{name}.{member}"
        assert not re.search(r"(Args|Returns|Raises|Attributes):\n", text), name


def prose(page):
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    place = page.parent / path if path else page
    return place.exists() and (not anchor or anchor in anchors(place))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://")):
            assert leads_somewhere(page, target), f"{page.name} links to {target}"


def test_links_to_headings_of_other_pages_are_followed(tmp_path):
    (tmp_path / "other.md").write_text("# A heading\n")
    page = tmp_path / "page.md"
    assert leads_somewhere(page, "other.md") and leads_somewhere(page, "other.md#a-heading")
    assert not leads_somewhere(page, "other.md#gone") and not leads_somewhere(page, "gone.md")


def test_robustness_names_tests_that_there_are():
    page = (ROOT / "docs" / "robustness.md").read_text()
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_the_loader_of_an_export_is_the_same_wherever_it_stands():
    page = (ROOT / "docs" / "export.md").read_text()
    block = re.search(r"```python\n(import json.*?)```", page, re.DOTALL).group(1)
    shown = re.search(r"To run it:\n\n((?:    .*\n|\n)+)", export.__doc__).group(1)

    def statements(code):
        lines = [line.split("#")[0].strip() for line in code.splitlines()]
        about = ("import json", "about =")  # which the page alone reads
        text = "\n".join(line for line in lines if line and not line.startswith(about))
        return text.replace("my_scorer.npz", "scorer.npz").replace("outputs =", "scores =")

    assert statements(block) == statements(shown)


def test_pages_name_no_place_on_anybodys_machine():
    for page in [*PAGES, *(ROOT / "ecood" / "pretrained").glob("*/README.md")]:
        assert not re.search(r"(?<![\w.])/(root|home|work|Users|tmp)/", page.read_text()), page


def code(page, language="python"):
    """The blocks of code of a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_encoder_on_the_page_tells_grey_images_apart():
    names: dict = {}
    exec(code("encoders.md")[0], names)
    detector, key = ecood.score.similarity(names["mine"]), jax.random.key(0)
    id_images = data.load_images("embedded", "fashion_mnist", "train", limit=40)
    images = data.load_images("embedded", "fashion_mnist", "test", limit=9)
    found = scores(detector, detector.fit(key, splits.draw(id_images)), key, images)
    assert np.ptp(found) > 1e-3 and len(np.unique(found)) == 9


@pytest.mark.slow
def test_distributions_on_the_page_are_flows_and_flows_are_distributions():
    pages = "\n".join(block for block in code("flows.md") if "distribution" in block)
    names: dict = {}
    exec(pages, names)
    assert names["flow"].image_shape == (28, 28, 1)
    assert names["images"].shape == (2, 3, 28, 28, 1) and names["log_prob"].shape == (2, 3)


@pytest.mark.slow
def test_the_adapter_on_the_page_scores_as_the_scorer_does():
    images = data.load_images("embedded", "mnist", "test", limit=5)
    names = {"batch": images.transpose(0, 3, 1, 2)}
    (block,) = code("detectors.md", "py")
    exec(block, names)
    expected = ecood.score.load("fashion_mnist")(images)
    np.testing.assert_allclose(names["ood_scores"], expected, rtol=1e-6)  # two programs
    np.testing.assert_array_equal(names["conf"], -names["ood_scores"])


def test_the_file_of_crops_on_the_page_is_one_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(data.load_images("embedded", "mnist", "test", limit=3)):
        Image.fromarray(image.squeeze()).save(f"photos/{i}.png")
    (block,) = (block for block in code("reproduce.md") if "my_crops.npz" in block)
    exec(block, {})
    crops = data.load_images("my_crops.npz", "imagenet32", "test")
    assert crops.shape == (3, 32, 32, 3)


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
