"""Scorers pushed to a hub on the loopback and fetched from it, in order and out of it."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import ecood.score
from ecood import encoders
from ecood.errors import InputError
from ecood.score.card import card
from tests import fake_hub, small

NAME = "somebody/a-scorer"
IMAGES = small.images(9, seed=1)


@pytest.fixture(scope="module")
def scorer():
    split = small.split(150, calibration=0.4)
    options = {"noise_strength": 1.0, "thumbnails": True}
    return ecood.score.fit(small.blank_flow(), encoders.pixels(), split, **options)


def test_the_card_says_what_the_scorer_knows(scorer):
    text = card(scorer, NAME, "Photographs of | leaves,\n CC0")
    assert text.startswith("---\nlibrary_name: ecood\n")
    assert f'scorer = ecood.score.load("hf:{NAME}")\nscores = scorer(images)\n' in text
    assert "| in-distribution images | Photographs of \\| leaves,  CC0 |" in text
    assert "uint8 `[N, 8, 8, 3]`" in text and "| not known | which images flow were" in text
    assert "| flow | Glow, image_shape (8, 8, 3), depth 1," in text and "1,044 parameters |" in text
    median = float(scorer.state.reference.centre[0])
    assert f"| bits/dim | {median:.3f}, the median over held-out" in text
    assert f"| 5 % | {scorer.threshold(0.05):.4f} | " in text
    assert "| 1 % |" not in text  # 60 calibration images do not suffice for it
    assert "Measured when" not in text


def test_the_card_tells_what_fit_measured_and_whose_code_runs(scorer):
    measured = {"bits_per_dim_held_out": 3.25, "auroc_of_held_out_against_turned": 0.9, "x": 1}
    told = card(dataclasses.replace(scorer, card=measured, made_by="own:make"), NAME)
    assert "| bits/dim of held-out in-distribution images, mean | 3.250 |" in told
    assert "themselves turned | 0.900 |" in told and 'trust="own:make")' in told
    plain = card(dataclasses.replace(scorer, calibration=None), NAME)
    assert "It is not calibrated" in plain and "| false-positive rate |" not in plain
    elsewhere = scorer.state.replace(encoder=encoders.elsewhere(192, name="a service"))
    assert "embeddings=embeddings)  # of a service, float [N, 192]" in card(
        dataclasses.replace(scorer, state=elsewhere), NAME
    )


def test_the_card_tells_nothing_that_has_changed_since_or_that_nobody_can_know(scorer):
    images = {"given": 150, "train": 83, "held_out": 7, "calibration": 60}
    own = {"images": images, "auroc_of_held_out_against_turned": 0.9}
    measured = dataclasses.replace(scorer, card=own)
    again = measured.calibrate(small.images(30, seed=2))
    assert again.card == own | {"images": images | {"calibration": 30}}
    assert measured.card["images"]["calibration"] == 60
    moved = measured.with_noise_strength(0.5)
    assert moved.card is None and "0.900" not in card(moved, NAME)
    assert "alone" not in card(moved, NAME) and "No image" not in card(moved, NAME)
    assert scorer.calibrate(small.images(30, seed=2)).card is None


def test_what_fit_measured_is_saved_and_read(scorer, tmp_path):
    dataclasses.replace(scorer, card={"bits_per_dim_held_out": 3.0}).save(tmp_path / "scorer")
    assert ecood.score.load(tmp_path / "scorer").card == {"bits_per_dim_held_out": 3.0}
    (tmp_path / "scorer" / "card.json").write_text("[")
    with pytest.raises(InputError, match="card.json is damaged"):
        ecood.score.load(tmp_path / "scorer")


def test_without_the_package_the_refusal_says_how_to_get_it(scorer, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: ecood.score.load(f"hf:{NAME}"), lambda: scorer.push_to_hub(NAME)):
        with pytest.raises(InputError, match=r"needs huggingface_hub.*pip install 'ecood\[hub\]'"):
            act()


@pytest.mark.parametrize("name", ["alone", "a/b/c", "a b/c", "../c", ""])
def test_what_names_no_repository_is_refused(scorer, name):
    for act in (lambda: ecood.score.load(f"hf:{name}"), lambda: scorer.push_to_hub(name)):
        with pytest.raises(InputError, match=r"names no repository .* expected hf:owner/name"):
            act()


@contextlib.contextmanager
def environment(variables):
    """huggingface_hub reads them when it is imported: it is anew, and afterwards as it was."""
    ours = {k: v for k, v in sys.modules.items() if k.partition(".")[0] == "huggingface_hub"}
    for name in ours:
        del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield patch
    for name in [k for k in sys.modules if k.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]
    sys.modules.update(ours)


@pytest.fixture
def hub(tmp_path):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with fake_hub.running() as server:
        variables = {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
        with environment(variables | {"HF_TOKEN": fake_hub.TOKEN}):
            yield server


def fails(words):
    return pytest.raises(InputError, match=words)


@pytest.fixture
def as_somebody_else(monkeypatch):
    def become(token):
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")

    return become


@pytest.mark.reference
class TestOnTheHub:
    def test_what_is_pushed_is_read(self, hub, scorer, capsys):
        url = scorer.push_to_hub(NAME, data="Noise.")
        assert url == f"{hub.address}/{NAME}"
        stored = hub.files[NAME]
        assert {"README.md", "flow.safetensors", "scorer.json"} <= set(stored)
        assert "thumbnails.safetensors" not in stored  # they are the training images
        assert stored["README.md"].decode() == card(scorer, NAME, "Noise.")
        again = ecood.score.load(f"hf:{NAME}")
        assert capsys.readouterr().err == ""  # no bars where there is no terminal
        np.testing.assert_array_equal(again(IMAGES), scorer(IMAGES))
        np.testing.assert_array_equal(again.calibration, scorer.calibration)
        commit = hub.sha(NAME)
        assert ecood.score.load(f"hf:{NAME}@{commit}").seed == scorer.seed

    def test_what_is_pushed_again_replaces_all_of_it(self, hub, scorer):
        scorer.push_to_hub(NAME, thumbnails=True)
        assert "thumbnails.safetensors" in hub.files[NAME]
        assert ecood.score.load(f"hf:{NAME}").thumbnails is not None
        moved = dataclasses.replace(scorer, calibration=None, seed=5)
        moved.push_to_hub(NAME)
        assert not {"calibration.safetensors", "thumbnails.safetensors"} & set(hub.files[NAME])
        again = ecood.score.load(f"hf:{NAME}")
        assert again.seed == 5 and again.calibration is None

    def test_another_model_is_not_replaced(self, hub, scorer):
        theirs = {".gitattributes": b"", "README.md": b"mine", "model.safetensors": b"weights"}
        hub.files[NAME] = dict(theirs)
        with fails(f"hf:{NAME} holds model.safetensors and no scorer; choose another name"):
            scorer.push_to_hub(NAME)
        assert hub.files[NAME] == theirs
        del hub.files[NAME]["model.safetensors"]  # as a repository is made on the page
        hub.files[NAME]["LICENSE"] = b"mine"
        scorer.push_to_hub(NAME)
        hub.files[NAME]["run.json"] = b"mine"
        scorer.push_to_hub(NAME)
        assert hub.files[NAME]["run.json"] == hub.files[NAME]["LICENSE"] == b"mine"

    def test_only_a_scorers_files_are_fetched(self, hub, scorer):
        scorer.push_to_hub(NAME)
        hub.files[NAME] |= {"pytorch_model.bin": b"large", "run.py": b"import os"}
        ecood.score.load(f"hf:{NAME}")
        assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]

    @pytest.mark.parametrize("how", ["gone", "broken"])
    def test_offline_the_cached_copy_is_read(self, tmp_path, scorer, how):
        pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
        with contextlib.ExitStack() as server:
            hub = server.enter_context(fake_hub.running())
            variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
            server_is_there = server.pop_all()
            with environment(variables | {"HF_TOKEN": fake_hub.TOKEN}), server_is_there:
                scorer.push_to_hub(NAME)
                expected = ecood.score.load(f"hf:{NAME}")(IMAGES)
                if how == "gone":
                    server_is_there.close()
                hub.broken = True
                found = ecood.score.load(f"hf:{NAME}")
                np.testing.assert_array_equal(found(IMAGES), expected)
                with fails(f"hf:other/one cannot be reached on {hub.address}, and no copy of it"):
                    ecood.score.load("hf:other/one")
                with fails("could not be written to hf:somebody/a-scorer on http.*; try again"):
                    scorer.push_to_hub(NAME)

    def test_a_repository_that_is_not_there(self, hub):
        with fails(rf"there is no hf:{NAME} on {hub.address}, or it is private; check the name"):
            ecood.score.load(f"hf:{NAME}")

    def test_a_revision_that_is_not_there(self, hub, scorer):
        scorer.push_to_hub(NAME)
        with fails(f"hf:{NAME} has no revision 'v2'; give a branch"):
            ecood.score.load(f"hf:{NAME}@v2")

    def test_a_private_one_is_read_by_its_owner(self, hub, scorer, as_somebody_else):
        scorer.push_to_hub(NAME, private=True)
        assert NAME in hub.private
        as_somebody_else(None)
        with fails("or it is private; .* log in with `hf auth login`, or set HF_TOKEN"):
            ecood.score.load(f"hf:{NAME}")
        as_somebody_else(fake_hub.READ_ONLY)
        assert ecood.score.load(f"hf:{NAME}").seed == scorer.seed

    def test_a_gated_one_needs_consent(self, hub, scorer, as_somebody_else):
        scorer.push_to_hub(NAME)
        hub.gated.add(NAME)
        as_somebody_else(fake_hub.READ_ONLY)
        with fails(f"hf:{NAME} is gated; ask for access on its page"):
            ecood.score.load(f"hf:{NAME}")

    @pytest.mark.parametrize("token", [None, fake_hub.READ_ONLY])
    def test_who_may_not_write_is_told(self, hub, scorer, as_somebody_else, token):
        as_somebody_else(token)
        with fails(f"could not be written to hf:{NAME} on .*; log in .* right to write there"):
            scorer.push_to_hub(NAME)
        assert NAME not in hub.files

    def test_a_partial_download_is_refused_and_goes_on(self, hub, scorer):
        scorer.push_to_hub(NAME)
        hub.short.add("bank.safetensors")
        with fails(f"hf:{NAME} could not be fetched whole .*; try again, what is there is kept"):
            ecood.score.load(f"hf:{NAME}")
        hub.broken = True
        with fails("only a part of it is in the cache|there is no weights file"):
            ecood.score.load(f"hf:{NAME}")
        hub.broken = False
        hub.short.clear()
        np.testing.assert_array_equal(ecood.score.load(f"hf:{NAME}")(IMAGES), scorer(IMAGES))

    def test_a_repository_that_holds_no_scorer(self, hub):
        hub.files[NAME] = {"config.json": b"{}"}
        with fails("holds no scorer.json"):
            ecood.score.load(f"hf:{NAME}")

    def test_the_command_line_scores_with_it(self, hub, scorer, tmp_path):
        scorer.push_to_hub(NAME)
        np.save(tmp_path / "images.npy", IMAGES)
        words = [sys.executable, "-m", "ecood", "score", "images.npy", "--scorer", f"hf:{NAME}"]
        root = str(pathlib.Path(ecood.__file__).parents[1])
        variables = os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = [float(line.split(",")[2]) for line in done.stdout.splitlines()[1:]]
        np.testing.assert_allclose(found, scorer(IMAGES), rtol=1e-4, atol=1e-3)
