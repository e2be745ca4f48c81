"""The process around a command: its streams, its signals, what it imports."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

import ecood.score
from ecood import cli, encoders, signals
from tests import small
from tests.data.image_files import write_images

PATHS = {"PYTHONPATH": str(pathlib.Path(ecood.__file__).parents[1])}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scorers") / "mine"
    images = small.images(60)
    ecood.score.fit(small.blank_flow(), encoders.pixels(), images, noise_strength=0.1).save(
        directory
    )
    return directory


STREAMS = [
    (">&-", 2, "standard output is closed; give the file to write with --out."),
    ("--out OUT >&- 2>&- <&-", 1, ""),
    (">OUT 2>&-", 1, ""),
    (">OUT 2>/dev/full", 1, ""),
    (">OUT", 1, "scored 3 images, passed over 1 (1 .png)"),
    ("--out /dev/full", 2, "writing the output failed (No space left on device)."),
]


@pytest.mark.parametrize(("streams", "code", "told"), STREAMS)
def test_closed_and_full_streams_in_a_locale_of_ascii_with_warnings_as_errors(
    on_disk, tmp_path, streams, code, told
):
    """What can be done is done, and bytes of names are kept; else it is one sentence."""
    paths = write_images(tmp_path / "photos", small.images(4, seed=2))
    paths[1].rename(paths[1].with_name("zé.png"))
    paths[2].write_bytes(b"damaged")
    paths[2].rename(paths[2].with_name("ö.png"))
    command = f"{sys.executable} -W error -m ecood score photos --scorer {on_disk} {streams}"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["sh", "-c", command.replace("OUT", "scores.csv")],
        **{"cwd": tmp_path, "env": os.environ | PATHS | plain, "capture_output": True},
    )
    assert done.returncode == code
    assert done.stderr.decode().strip().endswith(told) and b"Traceback" not in done.stderr
    if "OUT" in streams:
        text = (tmp_path / "scores.csv").read_text(encoding="utf-8")
        found = csv.DictReader(text.splitlines())
        assert [row["path"] for row in found] == [f"photos/{n}.png" for n in ("0000", "0003", "zé")]


@pytest.mark.parametrize(
    ("number", "within"),
    [
        (signal.SIGINT, "import"),
        (signal.SIGINT, "work"),
        (signal.SIGTERM, "work"),
        (signal.SIGHUP, "import"),
    ],
)
def test_a_signal_ends_a_command_in_order(on_disk, tmp_path, number, within):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup has the tests ignore it, and with them what they start")
    os.mkfifo(tmp_path / "list")
    words = [sys.executable, "-m", "ecood", "score", "-", "--scorer", str(on_disk)]
    with (
        open(os.open(tmp_path / "list", os.O_RDWR), "rb+", buffering=0) as waiting,
        subprocess.Popen(
            [*words, "--out", "scores.csv"],
            **{"stdin": waiting, "stderr": subprocess.PIPE, "cwd": tmp_path},
            env=os.environ | PATHS,
        ) as process,
    ):
        if within == "work":  # it has made its temporary folder, and waits for a path
            while len(list(tmp_path.iterdir())) < 2:
                time.sleep(0.02)
        else:
            time.sleep(0.3)
        process.send_signal(number)
        try:
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()  # if it has not ended
    assert process.returncode == 128 + number
    assert told.decode().endswith(f"python -m ecood: {signals.NAMES[number.name]}\n")
    assert "Traceback" not in told.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 3 TiB for an array."), " (Unable to allocate 3 TiB for"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nAt"),
            " (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes);",
        ),
    ],
)
def test_where_memory_runs_out_it_is_said_in_one_sentence(monkeypatch, capsys, error, reason):
    def load(*_):
        raise error

    monkeypatch.setattr(ecood.score, "load", load)
    assert cli.main(["info", "fashion_mnist"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"python -m ecood: memory ran out{reason}")
    monkeypatch.setattr(ecood.score, "load", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "fashion_mnist"])


def test_a_memory_that_is_too_small_is_no_traceback(tmp_path):
    """An array of numpy's, and a program of XLA's, that no machine holds."""
    program = """
import jax.numpy as jnp, numpy as np, sys
from ecood.cli.ending import ending
array, computed = (lambda: np.ones(2**58)), (lambda: jnp.ones(2**50).block_until_ready())
sys.exit(ending("it", array) + 10 * ending("it", computed))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 22
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == ["it: memory ran out"] * 2


def test_a_directory_that_was_removed_is_what_is_said(tmp_path):
    (tmp_path / "here").mkdir()
    (image,) = write_images(tmp_path, small.images(1))
    program = """
import os, sys
from ecood import cli
os.rmdir(os.getcwd())
sys.exit(cli.main(sys.argv[1:]))
"""
    words = ["report", image, "--scorer", "fashion_mnist", "--out", "r.html"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        **{"cwd": tmp_path / "here", "env": os.environ | PATHS, "capture_output": True},
    )
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "python -m ecood: finding the current directory, which was removed, failed "
        "(No such file or directory)."
    ]


def test_what_swallows_an_interruption_gets_it_again():
    program = """
import os, signal, time
from ecood.signals import Signals
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with Signals("program"):
    Swallows()
    for _ in range(500):
        time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "program: terminated\n")


def test_an_interruption_that_an_import_swallows_comes_again(tmp_path):
    """As compiled modules do; even to what waits for input by then."""
    (tmp_path / "swallows.py").write_text(
        """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass
except BaseException:
    pass
"""
    )
    program = """
import sys
from ecood.signals import Signals
with Signals("program"):
    import swallows
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        **{"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path},
        env=os.environ | PATHS,
    ) as process:
        try:
            assert process.wait(timeout=60) == 130
            assert process.stderr.read() == "program: interrupted\n"
        finally:
            process.kill()


def test_an_import_is_not_interrupted_and_what_follows_is(tmp_path):
    """C++ that is being imported may not survive an exception."""
    (tmp_path / "imported.py").write_text(
        """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
for _ in range(1000):
    pass
print("whole", flush=True)
"""
    )
    program = """
import time
from ecood.signals import Signals
with Signals("program"):
    import imported
    time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        **{"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | PATHS},
    )
    found = done.returncode, done.stdout, done.stderr
    assert found == (130, "whole\n", "program: interrupted\n")


def test_what_is_cleaned_up_after_an_interruption_is_not_interrupted():
    program = """
import os, signal, time
from ecood.signals import Signals
with Signals("program"):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        for _ in range(50):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        print("cleaned up", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        "cleaned up\n",
        "program: interrupted\n",
    )


def test_version_and_help_come_at_once_and_need_no_docstrings():
    program = (
        "import sys; from ecood import cli\ntry: cli.main(['{}'])\nfinally: print(*sys.modules)"
    )
    for word in ("--version", "--help"):
        command = [sys.executable, "-OO", "-c", program.format(word)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | PATHS)
        assert done.returncode == 0 and "ecood" in done.stdout
        assert not {"jax", "numpy", "scipy"} & set(done.stdout.split())


def test_the_door_imports_what_scoring_needs_and_no_more():
    """What takes longest to import is imported where it is used: in all, more than half."""
    command = [sys.executable, "-c", "import sys, ecood.score; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | PATHS)
    seldom = {"distrax", "matplotlib", "optax", "orbax", "sklearn", "tensorflow_datasets"}
    found = set(done.stdout.split())
    assert "ecood.score" in found and not {"scipy.special", "scipy.stats", *seldom} & found
