"""An exported file scores as its scorer did; what is no such file is refused in one sentence."""

import json
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import ecood.score
from ecood import cli, encoders
from ecood.errors import InputError
from tests import small
from tests.data.image_files import write_images

IMAGES = np.concatenate([small.images(60, seed=1), 255 - small.images(10, seed=2)])


@pytest.fixture(scope="module")
def scorer():
    split = small.split(150, calibration=0.4)
    options = {"noise_strength": 1.0, "thumbnails": True}
    return ecood.score.fit(small.blank_flow(), encoders.pixels(), split, **options)


@pytest.fixture(scope="module")
def path(scorer, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "scorer.npz"
    scorer.export(path, "cpu")
    return path


@pytest.fixture(scope="module")
def program(path):
    return ecood.score.load_export(path)


def test_it_scores_as_the_scorer_does(scorer, program):
    found, expected = program.detect(IMAGES), scorer.detect(IMAGES)
    for name, values in found._asdict().items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(program(IMAGES), found.score)
    assert program.threshold(0.1) == scorer.threshold(0.1)
    np.testing.assert_array_equal(program.is_ood(IMAGES, 0.1), scorer.is_ood(IMAGES, 0.1))
    assert program.drift(IMAGES).n == len(IMAGES)
    assert repr(program).startswith("Program(images [8, 8, 3], ")
    with pytest.raises(InputError, match="shape"):
        program(small.images(3, shape=(12, 8, 3)))


def test_it_explains_what_needs_no_scorer(scorer, program):
    found, expected = program.explain(IMAGES[:5]), scorer.explain(IMAGES[:5])
    np.testing.assert_allclose(found.code_map, expected.code_map, rtol=1e-5)
    assert found.terms == {} and found.neighbours.shape == (5, 0) and found.bits_map is None
    with pytest.raises(InputError, match="neighbours is 5, and an exported program cannot tell"):
        program.explain(IMAGES[:5], neighbours=5)
    assert "bits/dim, " in found.sentences()[0] and "to the memory bank." in found.sentences()[0]


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def rewritten(path, to, **changes):
    np.savez(to, **{k: v for k, v in (arrays(path) | changes).items() if v is not None})


def about(path, **changes):
    return np.array(json.dumps(json.loads(str(arrays(path)["about"])) | changes))


def another_program(path):
    exported = jax.export.export(jax.jit(lambda w, x: {"score": jnp.sum(x)}))(
        [], jax.ShapeDtypeStruct((3,), jnp.float32)
    )
    return np.frombuffer(exported.serialize(), np.uint8)


def nan_calibration(path, to):
    last = max(name for name in arrays(path) if name.startswith("weight_"))
    rewritten(path, to, **{last: np.full_like(arrays(path)[last], np.nan)})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda p, to: None, "there is no file .*; expected one that Scorer.export wrote"),
        (lambda p, to: to.write_bytes(b"PK"), "is no scorer that Scorer.export wrote, or it is d"),
        (lambda p, to: to.write_bytes(p.read_bytes()[:-99]), "is no scorer that Scorer.export"),
        (lambda p, to: np.savez(to, images=IMAGES), "is no scorer .*about"),
        (lambda p, to: rewritten(p, to, about=np.array("{")), "is no scorer"),
        (lambda p, to: rewritten(p, to, about=about(p, image_shape=[8])), "is no scorer"),
        (lambda p, to: rewritten(p, to, about=about(p, calibration_images=5)), "its calibration"),
        (lambda p, to: rewritten(p, to, about=np.array([None])), "is no scorer"),
        (lambda p, to: rewritten(p, to, about=about(p, calibration_images=np.inf)), "is no scorer"),
        (lambda p, to: rewritten(p, to, weight_0003=None), "the weights in .* are not those that"),
        (
            lambda p, to: rewritten(p, to, weight_0003=np.zeros(3)),
            "the weights in .* are not those",
        ),
        (nan_calibration, "its calibration is not finite"),
        (
            lambda p, to: rewritten(p, to, about=about(p, platforms=["tpu"])),
            r"exported for tpu, and this is cpu; export it again with platforms=\['tpu', 'cpu'\]",
        ),
        (lambda p, to: rewritten(p, to, program=np.zeros(99, np.uint8)), "cannot be read by jax"),
        (lambda p, to: rewritten(p, to, program=another_program(p)), "gives no similarity, noise"),
    ],
)
def test_what_is_no_export_is_refused_in_one_sentence(path, tmp_path, harm, words):
    harm(path, tmp_path / "other.npz")
    with pytest.raises(InputError, match=words) as caught:
        ecood.score.load_export(tmp_path / "other.npz")
    assert "\n" not in str(caught.value)


def test_a_file_whose_weights_are_cut_is_refused(path, tmp_path):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "cut.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: -8 if name.startswith("weight_0000") else None])
    with pytest.raises(InputError, match="it is damaged"):
        ecood.score.load_export(tmp_path / "cut.npz")


def run(*words):
    return cli.main(list(map(str, words)))


def test_the_command_line_scores_with_it(scorer, path, tmp_path, capsys):
    np.save(tmp_path / "images.npy", IMAGES)
    words = ("score", tmp_path / "images.npy", "--fpr", "0.1", "--out")
    assert run(*words, tmp_path / "a.csv", "--scorer", path) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("8 x 8 pixels and 3 channels; 60 calibration images)")
    scorer.save(tmp_path / "scorer")
    assert run(*words, tmp_path / "b.csv", "--scorer", tmp_path / "scorer") == 0
    a, b = ((tmp_path / name).read_text().splitlines() for name in ("a.csv", "b.csv"))
    assert a[0] == b[0] and len(a) == len(b) == 71
    for one, other in zip(a[1:], b[1:], strict=True):
        np.testing.assert_allclose(
            *([float(x) for x in line.split(",")[2:-1]] for line in (one, other)), atol=1e-3
        )
        assert one.split(",")[-1] == other.split(",")[-1]


def test_the_command_line_tells_what_it_is(path, capsys):
    assert run("info", path) == 0
    out = capsys.readouterr().out
    assert "images:         uint8 [N, 8, 8, 3]" in out and "platforms:      cpu" in out
    assert "calibration:    60 images" in out


def test_a_report_of_it_has_what_a_program_gives(path, tmp_path):
    write_images(tmp_path / "photos", IMAGES[-12:])
    words = ("report", tmp_path / "photos", "--scorer", path, "--out", tmp_path / "r.html")
    assert run(*words) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count('class="card"') == 12
    assert "exported by" in page and "an exported scorer gives none" in page
    assert "nearest in the bank" not in page and "sum of its parts" not in page
