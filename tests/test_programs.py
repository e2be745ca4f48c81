"""Compiled programs that outlive their process."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import ecood.score
from ecood import encoders, programs
from tests import small

ROOT = str(pathlib.Path(ecood.__file__).parents[1])
PROGRAM = """
from ecood import programs
programs.keep()
import jax
counts = {"hits": 0, "misses": 0}
def count(event, **_):
    if event.startswith("/jax/compilation_cache/cache_"):
        counts[event.rpartition("_")[2]] += 1
jax.monitoring.register_event_listener(count)
print(jax.jit(lambda x: x + 1)(1), counts["hits"], counts["misses"])
"""


def start(cache, *words, **changes):
    """A process with its own cache, in which JAX is told nothing else."""
    kept = {name: v for name, v in os.environ.items() if "CACHE" not in name}
    env = kept | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": ROOT} | changes
    words = words or ("-c", PROGRAM)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-W", "error", *words], env=env, **pipes)


def finish(process):
    """What it printed; it said nothing on standard error."""
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return [int(word) for word in out.split()]


def test_what_one_process_compiled_the_next_one_reads(tmp_path):
    assert finish(start(tmp_path)) == [2, 0, 1]
    assert finish(start(tmp_path)) == [2, 1, 0]
    (folder,) = (tmp_path / "ecood").iterdir()
    assert folder.stat().st_mode & 0o077 == 0  # who can write it can run programs as its owner
    for damage in (b"", b"nonsense"):
        for path in folder.iterdir():
            path.write_bytes(damage)
        assert finish(start(tmp_path))[0] == 2


@pytest.mark.parametrize("left", [0, 100])
def test_what_a_full_disk_left_of_an_entry_is_replaced(tmp_path, left):
    finish(start(tmp_path))
    for path in tmp_path.glob("ecood/*/jit_*-cache"):
        path.write_bytes(path.read_bytes()[:left])
        os.utime(path, (1e9, 1e9))  # nobody is writing it
    (mark,) = tmp_path.glob("ecood/*/looked_at")
    mark.with_name("fits-x-cache.123").write_bytes(b"a kill's")
    os.utime(mark.with_name("fits-x-cache.123"), (1e9, 1e9))
    mark.unlink()
    assert finish(start(tmp_path)) == [2, 0, 1]
    assert not list(mark.parent.glob("*.123"))
    assert finish(start(tmp_path)) == [2, 1, 0]


def test_processes_share_it_at_once(tmp_path):
    running = [start(tmp_path) for _ in range(3)]
    assert [finish(each)[0] for each in running] == [2, 2, 2]
    assert finish(start(tmp_path)) == [2, 1, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"JAX_ENABLE_COMPILATION_CACHE": "0"},
        {"XDG_CACHE_HOME": "/dev/null"},
        {"XDG_CACHE_HOME": "relative", "HOME": "/dev/null"},
    ],
)
def test_where_it_is_off_or_cannot_be_written_all_else_works(tmp_path, changes):
    assert finish(start(tmp_path, **changes))[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_jaxs_own_settings_go_first(tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    assert finish(start(tmp_path, **own)) == [2, 0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_the_programs_that_were_not_read_for_longest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 250)
    folder = tmp_path / "processor"
    folder.mkdir()
    for age, name in enumerate(("new", "middle", "old", "oldest")):
        path = folder / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    os.utime(folder / "oldest-cache", (2e9, 1e9 - 3))  # read since
    programs.shrink(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["new-cache", "oldest-cache"]


SCORE = """
import jax
from ecood import cli
traced = []
hear = jax.monitoring.register_event_duration_secs_listener
hear(lambda event, seconds, **about: traced.append(about.get("fun_name")))
assert cli.main() == 0
print("program" in traced)  # as `ecood.score.traced` calls what it traces
"""


def test_the_command_line_traces_and_compiles_a_scorer_once(tmp_path):
    images = small.images(60)
    fitted = ecood.score.fit(small.blank_flow(), encoders.pixels(), images, noise_strength=0.1)
    fitted.save(tmp_path / "mine")
    np.save(tmp_path / "images.npy", images[:2])
    words = ["score", str(tmp_path / "images.npy"), "--scorer", str(tmp_path / "mine")]

    def score():
        out, err = start(tmp_path, "-c", SCORE, *words).communicate(timeout=400)
        *rows, traced = out.splitlines()
        return rows, traced, err

    rows, traced, told = score()
    assert traced == "True", told
    assert score()[:2] == (rows, "False")
    (compiled,) = tmp_path.glob("ecood/*/jit_detect-*-cache")
    (kept,) = tmp_path.glob("ecood/*/traced-*-cache")
    kept.write_bytes(b"nonsense")
    assert score()[:2] == (rows, "True")
    assert list(tmp_path.glob("ecood/*/jit_detect-*-cache")) == [compiled]
    scores = [float(row.split(",")[2]) for row in rows[1:]]
    np.testing.assert_array_equal(scores, [float(str(score)) for score in fitted(images[:2])])


ELSEWHERE = """
import sys
from ecood import programs, score
programs.keep()
import jax, numpy
scorer, images = score.load(sys.argv[1]), numpy.load(sys.argv[2])
with jax.default_device(jax.devices()[0]):
    scorer(images)
"""


@pytest.mark.slow
def test_what_is_traced_for_one_device_is_not_given_to_another(tmp_path):
    fitted = ecood.score.fit(small.blank_flow(), encoders.pixels(), small.images(60))
    fitted.save(tmp_path / "mine")
    np.save(tmp_path / "images.npy", small.images(2))
    words = (str(tmp_path / "mine"), str(tmp_path / "images.npy"))
    assert finish(start(tmp_path, "-c", ELSEWHERE, *words)) == []
    assert list(tmp_path.glob("ecood/*/jit_detect-*-cache"))
    assert not list(tmp_path.glob("ecood/*/traced-*-cache"))


def test_a_name_changes_with_jaxs_settings_and_is_given_where_programs_are_kept_alone(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.name("x") is None and programs.read(None) is None
    place = tmp_path / "ecood" / "processor"
    place.mkdir(parents=True)
    jax.config.update("jax_compilation_cache_dir", str(place))
    try:
        name = programs.name("x", [1, 2])
        assert name == programs.name("x", (1, 2)) != programs.name("x", [1])
        with jax.default_matmul_precision("highest"):
            assert programs.name("x", [1, 2]) != name
        programs.write(name, b"content")
        assert programs.read(name) == b"content" and len(list(place.iterdir())) == 1
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
