import hashlib
import socket
import threading
import time

import pytest

from ecood.data import download
from ecood.data.download import Remote, fetch, silent
from ecood.errors import InputError
from tests.data.http_files import served

DATA = bytes(range(256)) * 1000
NAME = "things.tar.gz"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "_SILENT_UNTIL", {})


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    with served(folder) as running:
        yield running


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{listener.getsockname()[1]}"  # bound, but nobody listens


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder / NAME


def remote(server, data=DATA):
    return Remote(f"{server.address}/{NAME}", len(data), hashlib.sha256(data).hexdigest())


def held(place):
    return sorted(path.name for path in place.parent.iterdir())


def test_a_file_arrives_once(server, place):
    for _ in range(2):
        fetch(remote(server), place)
        assert place.read_bytes() == DATA and held(place) == [NAME]
    assert server.starts_of(NAME) == [0]


@pytest.mark.parametrize("bad", ["stalls", "cut"])
def test_a_broken_download_goes_on_where_it_stopped(server, place, bad):
    server.ways[NAME] = [bad, bad, "right"]
    fetch(remote(server), place, patience=0.3)
    half, quarter = len(DATA) // 2, len(DATA) // 4
    assert place.read_bytes() == DATA and held(place) == [NAME]
    assert server.starts_of(NAME) == [0, half, half + quarter]


def test_a_later_process_goes_on_where_an_earlier_one_stopped(server, place):
    part = place.with_name(f"{NAME}.part")
    part.write_bytes(DATA[:1000])
    fetch(remote(server), place)
    assert place.read_bytes() == DATA and server.starts_of(NAME) == [1000]


@pytest.mark.parametrize("way", ["no ranges", "no length"])
def test_servers_that_know_no_ranges_or_lengths(server, place, way):
    server.ways[NAME] = ["cut", way, way, "right"]
    fetch(remote(server), place)
    assert place.read_bytes() == DATA and held(place) == [NAME]


def test_a_redirect_is_followed(server, place):
    server.ways[NAME] = [302]
    place.with_name(f"{NAME}.part").write_bytes(DATA[:1000])
    fetch(remote(server), place)
    assert place.read_bytes() == DATA and server.starts_of(NAME) == [1000, 1000]


def test_a_server_that_is_overloaded_is_asked_again(server, place):
    server.ways[NAME] = [503, 429, "right"]
    fetch(remote(server), place)
    assert place.read_bytes() == DATA


@pytest.mark.parametrize("old", [b"another file" * 10, DATA[:-1] + b"x", DATA + b"more"])
@pytest.mark.parametrize("name", [NAME, f"{NAME}.part"])
def test_what_is_left_of_another_file_is_replaced(server, place, old, name):
    place.with_name(name).write_bytes(old)
    fetch(remote(server), place)
    assert place.read_bytes() == DATA and held(place) == [NAME]


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("wrong", "another SHA-256 than"),
        ("short", "is a file of 128,000 bytes; expected 256,000"),
        (404, "cannot be downloaded .the answer was 404 Not Found.; expected a file"),
        (403, "cannot be downloaded .the answer was 403 Forbidden.; expected a file"),
    ],
)
def test_what_is_not_the_file_is_refused_and_leaves_nothing(server, place, way, words):
    server.ways[NAME] = [way]
    with pytest.raises(InputError, match=words):
        fetch(remote(server), place)
    assert held(place) == []


@pytest.mark.parametrize(
    ("way", "words"), [(500, "the answer was 500"), ("nothing", "connection"), ("mute", "timed")]
)
def test_a_server_that_gives_nothing_is_asked_three_times(server, place, way, words):
    server.ways[NAME] = [way]
    with pytest.raises(InputError, match=f"gave 0 of 256,000 bytes .*{words}.* try again"):
        fetch(remote(server), place, patience=0.3)
    assert server.starts_of(NAME) == [0, 0, 0]
    assert not place.exists()


def test_a_server_that_goes_away_leaves_what_arrived(server, place):
    server.ways[NAME] = ["gone"]
    with pytest.raises(InputError, match="gave 128,000 of 256,000 bytes .* goes on from there"):
        fetch(remote(server), place, patience=1.0)
    assert held(place) == [f"{NAME}.part"]
    with served(server.folder) as again:
        fetch(remote(again), place)
        assert place.read_bytes() == DATA and again.starts_of(NAME) == [128_000]


def test_nobody_listens(closed_port, place):
    with pytest.raises(InputError, match="gave 0 of 5 bytes .*refused"):
        fetch(Remote(f"http://{closed_port}/{NAME}", 5, ""), place)
    assert held(place) == []


def test_what_cannot_be_written_ends_in_one_sentence(server, place):
    place.with_name(f"{NAME}.part").symlink_to(place.parent / "nowhere" / "file")
    with pytest.raises(InputError, match="cannot be written .No such file .* make room, or choose"):
        fetch(remote(server), place)
    assert held(place) == []


@pytest.mark.parametrize("status", [200, 404, 500])
def test_any_answer_of_a_host_will_do(server, status):
    server.head = status
    assert silent([f"{server.address}/a", f"{server.address}/b"], 5.0) is None


def test_every_host_must_answer(server, closed_port):
    start = time.monotonic()
    assert silent([f"{server.address}/a", f"http://{closed_port}/b"], 5.0) == closed_port
    assert time.monotonic() - start < 2.0  # refused at once


def test_a_silent_host_costs_no_more_than_the_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        start = time.monotonic()
        assert silent([f"http://{host}/a"], 0.3) == host
        assert time.monotonic() - start < 2.0


def test_a_silent_host_is_not_asked_again_for_a_minute(server, closed_port, monkeypatch):
    urls = [f"{server.address}/a", f"http://{closed_port}/b"]
    assert silent(urls, 5.0) == closed_port
    monkeypatch.setattr(download.urllib.request, "urlopen", None)
    assert silent(urls, 5.0) == closed_port
    (at,) = download._SILENT_UNTIL.values()
    monkeypatch.undo()
    monkeypatch.setattr(download.time, "monotonic", lambda: at + 1)
    assert silent(urls[:1], 5.0) is None


def test_a_look_up_that_hangs_costs_no_more_than_the_time_limit(monkeypatch):
    over = threading.Event()

    def hang(*args, **kwargs):
        over.wait(5)
        raise OSError

    monkeypatch.setattr(download.urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert silent(["http://nowhere.invalid/a"], 0.2) == "nowhere.invalid"
    assert time.monotonic() - start < 2.0
    over.set()


def test_what_downloads_nothing_needs_no_host():
    assert silent([], 1.0) is None
