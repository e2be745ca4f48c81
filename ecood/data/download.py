"""Downloads through TFDS: what stands in the way of one, and doing it.

TFDS retries a dead network for minutes, so hosts are asked first, with a time limit.
"""

import contextlib
import http.client
import importlib.util
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecood.data.prepared import quiet
from ecood.errors import InputError

__all__ = ["download", "obstacle"]


def obstacle(names: Sequence[str], timeout: float) -> str | None:
    """A clause that says why TFDS cannot download these in time, or None."""
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow, without which TFDS prepares no download, is not installed"
    hosts = {}
    for name in names:
        try:
            urls = _builder(name, None).url_infos or ()  # None: TFDS records no addresses for it
        except Exception as error:  # of several types, for a name that TFDS does not know
            return f"TFDS has no way to make {name} ({_brief(error)})"
        hosts |= {urllib.parse.urlsplit(url).netloc: url for url in urls}
    silent = _silent(hosts, timeout)
    return f"{silent} gave no answer within {timeout:g} s" if silent else None


def download(name: str, directory: Path) -> None:
    """Downloads a TFDS data set as ArrayRecord; a failure leaves nothing behind."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (
            quiet(),
            # The archives are of no use once prepared, and half an archive never is.
            tempfile.TemporaryDirectory(dir=directory, prefix="download-") as archives,
        ):
            _builder(name, directory).download_and_prepare(download_dir=archives)
    except Exception as error:  # from the network, the file system or TFDS
        for folder in (directory / name, directory):
            with contextlib.suppress(OSError):  # only if empty
                folder.rmdir()
        raise InputError(
            f"the TFDS download of {name} into {directory} failed ({_brief(error)}); "
            "expected network and disk space: try again, or use data that are on disk."
        ) from error


def _builder(name: str, directory: Path | None) -> Any:
    import tensorflow_datasets as tfds

    with quiet():
        return tfds.builder(name, data_dir=directory, file_format="array_record")


def _silent(hosts: dict[str, str], timeout: float) -> str | None:
    """The first host that does not answer a request for its URL in time, or None."""
    answered = set()

    def ask(host: str) -> None:
        request = urllib.request.Request(hosts[host], method="HEAD")
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
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return next((host for host in hosts if host not in answered), None)


def _brief(error: Exception) -> str:
    """The start of a message that may run over many lines."""
    return " ".join(str(error).split())[:120] or type(error).__name__
