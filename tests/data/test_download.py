import contextlib
import http.server
import importlib.util
import shutil
import socket
import threading
import time
import types

import pytest
from image_files import random_images, write_tfds

from ecood.data import download
from ecood.errors import InputError


@pytest.fixture(autouse=True)
def tensorflow_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def needs(monkeypatch, *urls, prepare=None):
    """Makes TFDS's builder one that needs these addresses and prepares like this."""

    def builder(name, directory):
        return types.SimpleNamespace(
            url_infos=dict.fromkeys(urls) or None,
            download_and_prepare=lambda download_dir: prepare(directory, download_dir),
        )

    monkeypatch.setattr(download, "_builder", builder)


@contextlib.contextmanager
def server(status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{listener.getsockname()[1]}"  # bound, but nobody listens


def test_without_tensorflow_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "TensorFlow" in download.obstacle(["mnist"], 1.0)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_any_answer_will_do(monkeypatch, status):
    with server(status) as host:
        needs(monkeypatch, f"http://{host}/a", f"http://{host}/b")
        assert download.obstacle(["things"], 5.0) is None


def test_every_host_must_answer(monkeypatch, closed_port):
    with server(200) as host:
        needs(monkeypatch, f"http://{host}/a", f"http://{closed_port}/b")
        assert download.obstacle(["things"], 5.0) == f"{closed_port} gave no answer within 5 s"


def test_a_silent_host_costs_no_more_than_the_time_limit(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        needs(monkeypatch, f"http://{host}/a")
        start = time.monotonic()
        assert download.obstacle(["things"], 0.3) == f"{host} gave no answer within 0.3 s"
        assert time.monotonic() - start < 2.0


def test_a_look_up_that_hangs_costs_no_more_than_the_time_limit(monkeypatch):
    over = threading.Event()

    def hang(*args, **kwargs):
        over.wait(5)
        raise OSError

    monkeypatch.setattr(download.urllib.request, "urlopen", hang)
    needs(monkeypatch, "http://nowhere.invalid/a")
    start = time.monotonic()
    assert "nowhere.invalid gave no answer" in download.obstacle(["things"], 0.2)
    assert time.monotonic() - start < 2.0
    over.set()


def test_a_set_that_downloads_nothing_needs_no_host(monkeypatch):
    needs(monkeypatch)
    assert download.obstacle(["things"], 1.0) is None


def test_real_builders_know_their_hosts_without_tensorflow_or_network(monkeypatch):
    asked = {}
    monkeypatch.setattr(download, "_silent", lambda hosts, timeout: asked.update(hosts))
    assert download.obstacle(["cifar10", "svhn_cropped"], 1.0) is None
    assert set(asked) == {"www.cs.toronto.edu", "ufldl.stanford.edu"}


def test_an_unknown_set_cannot_be_made():
    assert "TFDS has no way to make no_such_set" in download.obstacle(["no_such_set"], 1.0)


def test_a_download_lands_in_the_directory(monkeypatch, tmp_path):
    made = write_tfds(tmp_path / "made", "things", {"test": (random_images(0, 2), [0, 1])})
    directory = tmp_path / "new" / "data"

    def prepare(into, archives):
        (archives_path := directory / archives).joinpath("archive.zip").write_text("archive")
        assert archives_path.parent == directory
        shutil.copytree(made, into / "things" / "1.0.0")

    needs(monkeypatch, prepare=prepare)
    download.download("things", directory)
    assert [path.name for path in directory.iterdir()] == ["things"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_download_leaves_nothing(monkeypatch, tmp_path, existed):
    directory = tmp_path / "data"
    if existed:
        write_tfds(directory, "others", {"test": (random_images(0, 2), [0, 1])})

    def prepare(into, archives):
        (directory / archives / "half").write_text("half an archive")
        (into / "things").mkdir()
        raise ConnectionError("line 1\nline 2")

    needs(monkeypatch, prepare=prepare)
    with pytest.raises(InputError, match=r"download of things .* failed \(line 1 line 2\)"):
        download.download("things", directory)
    assert directory.exists() == existed
    assert not existed or [path.name for path in directory.iterdir()] == ["others"]
