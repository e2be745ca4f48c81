"""A scorer around your own functions is saved as where they are made, and runs nothing unasked."""

import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders, flows
from ecood.errors import InputError
from tests import small

CODE = """
import jax.numpy as jnp
from ecood import encoders, flows

def log_prob(variables, key, x):
    return -jnp.sum(variables["scale"] * x**2, axis=(1, 2, 3))

def embed(images):
    return images.reshape(images.shape[0], -1).astype("float32")

def make():
    return flows.Flow(log_prob, {"scale": jnp.float32(2)}), encoders.encoder(embed, name="mine")

def make_flow():
    return make()[0], None

def make_one():
    return make()[0]

def fail():
    raise OSError("no weights here")

x = 3
"""
MAKE = "own_model:make"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The file of a module that can be imported, in one test alone."""
    path = tmp_path / "own_model.py"
    path.write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    yield path
    sys.modules.pop("own_model", None)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A scorer around the functions of such a module, which is then forgotten, and its files."""
    folder = tmp_path_factory.mktemp("made_by")
    (folder / "own_model.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        import own_model

        split = small.split(80, calibration=0.2)
        scorer = ecood.score.fit(*own_model.make(), split, noise_strength=0.1, made_by=MAKE)
        scorer.save(folder / "scorer")
    del sys.modules["own_model"]
    return folder / "scorer", scorer


@pytest.fixture
def saved(fitted, code, tmp_path):
    directory, scorer = fitted
    shutil.copytree(directory, tmp_path / "scorer")
    return tmp_path / "scorer", scorer


def test_it_is_saved_and_read_where_it_is_trusted(saved):
    directory, scorer = saved
    assert {p.stem for p in directory.iterdir()} == {"bank", "calibration", "images", "scorer"}
    again = ecood.score.load(directory, trust=MAKE)
    images = small.images(9, seed=1)
    np.testing.assert_array_equal(again(images), scorer(images))
    np.testing.assert_array_equal(again.p_value(images), scorer.p_value(images))
    assert again.made_by == MAKE
    again.save(directory)
    assert ecood.score.load(directory, trust=MAKE).made_by == MAKE


@pytest.mark.parametrize("trust", [None, "own_model:make_flow", "os:getcwd"])
def test_nothing_is_imported_unless_this_very_path_is_trusted(saved, trust):
    directory, _ = saved
    with pytest.raises(InputError, match=rf"flow and encoder of .* come from {MAKE}.*trust='own_"):
        ecood.score.load(directory, trust=trust)
    assert "own_model" not in sys.modules


def test_a_part_that_ecood_can_save_is_saved(code, tmp_path):
    import own_model

    options = {"noise_strength": 0.1, "made_by": "own_model:make_flow"}
    scorer = ecood.score.fit(own_model.make()[0], small.encoder(), small.images(40), **options)
    scorer.save(tmp_path / "scorer")
    assert (tmp_path / "scorer" / "encoder.safetensors").exists()
    with pytest.raises(InputError, match="the flow of .* come"):
        ecood.score.load(tmp_path / "scorer")
    again = ecood.score.load(tmp_path / "scorer", trust="own_model:make_flow")
    images = small.images(9, seed=1)
    np.testing.assert_array_equal(again(images), scorer(images))


def test_a_scorer_that_needs_no_code_remembers_none(code, tmp_path):
    options = {"noise_strength": 0.1, "made_by": MAKE}
    scorer = ecood.score.fit(small.blank_flow(), small.encoder(), small.images(60), **options)
    scorer.save(tmp_path / "scorer")
    assert "made_by" not in json.loads((tmp_path / "scorer" / "scorer.json").read_text())
    assert ecood.score.load(tmp_path / "scorer", trust="any:thing").made_by is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("float32(2)", "float32(3)", "gives another flow than .* weights differ"),
        ("x**2, axis", "x**4, axis", "gives another flow than .* computes other numbers"),
        ('name="mine"', 'name="yours"', "gives another encoder .* weights differ"),
        ('astype("float32")', 'astype("float32")**2', "another encoder .* computes other numbers"),
        ("def make():", "def made():", "make cannot be imported and called .AttributeError"),
        ("import jax.numpy", "import jaxy.numpy", "cannot be imported and called .ModuleNotFound"),
    ],
)
def test_code_that_has_changed_is_refused(saved, code, old, new, words):
    directory, _ = saved
    code.write_text(CODE.replace(old, new))
    with pytest.raises(InputError, match=words) as caught:
        ecood.score.load(directory, trust=MAKE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("own_model", "'own_model' is no import path; expected one such as 'my_package"),
        ("__main__:make", "'__main__:make' is no import path"),
        ("own model:make", "is no import path"),
        ("own_model:make()", "is no import path"),
        ("own_model:x", "cannot be imported and called .TypeError"),
        ("own_model:fail", r"own_model:fail cannot .* \(OSError: no weights here\); run where"),
        ("own_model:make_one", r"gives a Flow; expected the pair \(flow, encoder\)"),
        ("own_model:make_flow", "gives another encoder than the one that is given"),
    ],
)
def test_a_path_that_does_not_give_the_parts_is_refused_before_anything_is_fitted(
    code, path, words
):
    import own_model

    with pytest.raises(InputError, match=words) as caught:
        ecood.score.fit(*own_model.make(), small.images(40), made_by=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", [3, {}, {"path": MAKE, "flow": {}}, {"path": MAKE, "flow": 1}])
def test_a_damaged_record_is_refused(saved, harm):
    directory, _ = saved
    description = json.loads((directory / "scorer.json").read_text()) | {"made_by": harm}
    (directory / "scorer.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="lacks or misstates"):
        ecood.score.load(directory, trust=MAKE)


def test_without_a_path_the_refusal_says_how_to_save(tmp_path):
    flow = flows.Flow(lambda v, k, x: -jnp.sum(x**2, axis=(1, 2, 3)), {})
    scorer = small.scorer(flow, encoders.pixels())
    with pytest.raises(InputError, match="fit with made_by='my_package.model:make'"):
        scorer.save(tmp_path / "scorer")
    assert not (tmp_path / "scorer").exists()


def test_the_command_line_reads_it_where_it_is_told_to(saved, tmp_path, capsys):
    directory, scorer = saved
    np.save(tmp_path / "images.npy", small.images(5, seed=1))
    words = ["score", str(tmp_path / "images.npy"), "--scorer", str(directory)]
    assert cli.main(words) == 2
    assert f"--trust {MAKE}" in capsys.readouterr().err
    assert cli.main([*words, "--trust", MAKE]) == 0
    found = [line.split(",")[2] for line in capsys.readouterr().out.splitlines()[1:]]
    np.testing.assert_array_equal(np.float32(found), scorer(small.images(5, seed=1)))
    assert cli.main(["info", str(directory), "--trust", MAKE]) == 0
    assert "made by:        own_model:make" in capsys.readouterr().out
