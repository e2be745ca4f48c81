"""Files over HTTP: resumed where they stopped, and checked before they have their name."""

import contextlib
import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import ecood
from ecood.errors import InputError
from ecood.progress import progress_bar

__all__ = ["Remote", "fetch", "is_of", "silent"]

PATIENCE = 20.0  # seconds without a byte until a connection is given up
TRIES = 3  # in a row that bring no new byte
PAUSE = 1.0  # seconds before the second try; twice as many before the third
AGENT = {"User-Agent": f"ecood/{ecood.__version__}"}
PASSING = (408, 425, 429)  # and 500 and above: another try may do


_SILENT_UNTIL: dict[str, float] = {}  # by host, on the monotonic clock


class Remote(NamedTuple):
    """A file and what its content is known by."""

    url: str
    size: int  # bytes
    sha256: str


def silent(urls: Iterable[str], timeout: float) -> str | None:
    """The first host that does not answer a request for its URL within `timeout` s, or None.

    One that was silent is not asked again for a minute.
    """
    hosts = {urllib.parse.urlsplit(url).netloc: url for url in urls}
    answered = set()
    start = time.monotonic()
    for host in hosts:
        if start < _SILENT_UNTIL.get(host, start):
            return host

    def ask(host: str) -> None:
        request = urllib.request.Request(hosts[host], method="HEAD", headers=AGENT)
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            try:
                urllib.request.urlopen(request, timeout=timeout).close()
            except urllib.error.HTTPError as error:  # an answer too
                error.close()
            answered.add(host)

    # Threads, because a name look-up knows no time limit; daemons, so that none delays the exit.
    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, start + timeout - time.monotonic()))
    silent_hosts = [host for host in hosts if host not in answered]
    _SILENT_UNTIL.update(dict.fromkeys(silent_hosts, time.monotonic() + 60.0))
    return next(iter(silent_hosts), None)


def fetch(remote: Remote, path: Path, *, patience: float = PATIENCE) -> None:
    """Downloads a file to `path`, which exists only if it has the right content.

    What has arrived is in `path` with `.part` at its end, where the next call goes on, in
    another process too. A connection that breaks, or brings nothing for `patience` seconds,
    is made anew as long as that brings more. Raises `InputError` if the file cannot be had
    or kept, or is another one.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.is_file():
            os.replace(path, part)  # to be checked again
        resumed = _size(part) > 0
        _download(remote, part, patience)
        if not is_of(part, remote):
            part.unlink()
            if resumed:  # what was there may be of another file
                return fetch(remote, path, patience=patience)
            raise InputError(
                f"what {remote.url} gave has another SHA-256 than {remote.sha256}; expected the "
                "file that was published: try again, or use data that are on disk."
            )
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); expected room for {remote.size:,} "
            "bytes: make room, or choose another directory by TFDS_DATA_DIR."
        ) from error


def is_of(path: Path, remote: Remote) -> bool:
    """Whether a file has the content of `remote`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == remote.sha256


def _download(remote: Remote, part: Path, patience: float) -> None:
    """Brings `part` to the size of `remote`."""
    most, failures = _size(part), 0
    with progress_bar(remote.size, f"downloading {part.stem}", "bytes") as bar:
        bar.update(most)
        while most < remote.size:
            try:
                _continue(remote, part, patience, bar.update)
                reason = "the connection was closed"
            except _Broken as error:
                reason = str(error)
            size = _size(part)
            failures, most = (0, size) if size > most else (failures + 1, most)
            if failures == TRIES:
                raise InputError(
                    f"{remote.url} gave {size:,} of {remote.size:,} bytes ({reason}); expected "
                    "all: try again, which goes on from there."
                )
            time.sleep(PAUSE * failures)


def _continue(remote: Remote, part: Path, patience: float, told: Callable[[int], None]) -> None:
    """Appends to `part` what one connection gives; tells the number of bytes."""
    start = _size(part)
    headers = AGENT | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(remote.url, headers=headers)
    with _network(remote, part):
        response = urllib.request.urlopen(request, timeout=patience)
    with response:
        if start and response.status != 206:  # the server gives the whole file
            told(-start)
            start = 0
        if response.length is not None and start + response.length != remote.size:
            part.unlink(missing_ok=True)
            raise InputError(
                f"{remote.url} is a file of {start + response.length:,} bytes; expected "
                f"{remote.size:,}: it is another file, or the page of a network that wants a login."
            )
        with part.open("ab" if start else "wb", buffering=0) as file:
            while start < remote.size:
                with _network(remote, part):
                    data = memoryview(response.read1(2**18))[: remote.size - start]
                if not data:
                    return
                start += len(data)
                told(len(data))
                while data:
                    data = data[file.write(data) :]


class _Broken(Exception):
    """Why a connection ended that may be made again."""


@contextlib.contextmanager
def _network(remote: Remote, part: Path) -> Iterator[None]:
    """Raises what goes wrong at the other end as `_Broken`, or as `InputError` if it is final."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the answer was {error.code} {error.reason}"
        if error.code == 416:  # of a part that is not of this file
            part.unlink(missing_ok=True)
        elif error.code < 500 and error.code not in PASSING:
            raise InputError(
                f"{remote.url} cannot be downloaded ({reason}); expected a file of "
                f"{remote.size:,} bytes: use data that are on disk."
            ) from error
        raise _Broken(reason) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(" ".join(str(error).split())[:120] or type(error).__name__) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
