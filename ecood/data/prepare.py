"""Prepares data sets in a TFDS data directory: from archives, downloaded or at hand, or by TFDS.

The data sets of `archives.SETS` need no TensorFlow. What is prepared is what TFDS prepares
(`tfds_format.py`), and any program's `tfds.data_source(name)` reads it. A data set is in the
directory with all of its files, or not at all; archives are kept in `downloads/ecood` until
it is, so that the next try goes on. Processes that prepare in one directory take turns.

Other data sets TFDS itself downloads, with TensorFlow (the extra `prepare`).
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecood.data import archives, tfds_format
from ecood.data.download import Remote, fetch, is_of, silent
from ecood.data.prepared import quiet
from ecood.errors import InputError
from ecood.progress import tell

__all__ = ["obstacle", "official", "prepare"]

UNFINISHED = "incomplete.ecood-"  # how the name begins of a folder that is being written

_BUILDING = threading.Lock()  # one thread at a time changes TFDS's class


def official(name: str) -> dict[str, Remote]:
    """The archives of a data set by their names, as TFDS's builder knows them."""
    infos = _builder(name).url_infos or {}  # None: TFDS records no addresses for it
    return {
        info.filename or url: Remote(url, int(info.size), info.checksum)
        for url, info in infos.items()
    }


def obstacle(names: Sequence[str], timeout: float) -> str | None:
    """A clause that says why these cannot be downloaded and prepared, or None.

    Each host is asked; one that does not answer within `timeout` seconds is an obstacle.
    """
    urls = []
    for name in names:
        if name in archives.LOCAL:
            return (
                f"the archives of {name} must be fetched by hand and prepared by "
                f"`python -m ecood prepare {name} --archives DIRECTORY`"
            )
        if name not in archives.SETS and importlib.util.find_spec("tensorflow") is None:
            return f"TensorFlow, without which TFDS cannot prepare {name}, is not installed"
        try:
            urls += [remote.url for remote in official(name).values()]
        except Exception as error:  # of several types, for a name that TFDS does not know
            return f"TFDS has no way to make {name} ({_brief(error)})"
    host = silent(urls, timeout)
    return f"{host} gave no answer within {timeout:g} s" if host else None


def prepare(
    name: str,
    directory: Path,
    *,
    splits: Collection[str] | None = None,
    at_hand: Path | None = None,
    remotes: Mapping[str, Remote] | None = None,
) -> Path:
    """Prepares a data set in a TFDS data directory; what is there already, stays.

    Args:
      name: TFDS's name of the data set, e.g. "cifar10".
      directory: the TFDS data directory, made if need be.
      splits: those wanted; None for all. Others can be added later.
      at_hand: a folder that holds the archives, at any depth, or one of them; None to
        download them.
      remotes: the archives by their file names; None for `official`.

    Returns:
      The folder of the data set's version.

    Raises:
      InputError: if `at_hand` is not there, an archive cannot be had, is not the published one,
        cannot be read, or there is no room; nothing half-written stays.
    """
    if at_hand is not None and not at_hand.exists():
        raise InputError(f"{at_hand} is not there; expected a folder with archives, or one.")
    downloads = directory / "downloads"
    ours = [downloads / "ecood", downloads, directory / name]
    if not directory.is_dir():
        ours.append(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _turn(directory) as alone:
            if name not in archives.SETS:
                return _by_tensorflow(name, directory)
            if alone:  # what is left is of a process that was killed
                for left in (directory / name).glob(f"{UNFINISHED}*"):
                    shutil.rmtree(left)
            return _from_archives(name, directory, splits, at_hand, remotes)
    except OSError as error:
        raise InputError(
            f"{name} cannot be prepared in {directory} ({error.strerror or error}); expected a "
            "directory with room that can be written: choose another by --out or TFDS_DATA_DIR."
        ) from error
    finally:
        for folder in ours:
            with contextlib.suppress(OSError):  # only if empty
                folder.rmdir()


def _from_archives(
    name: str,
    directory: Path,
    splits: Collection[str] | None,
    at_hand: Path | None,
    remotes: Mapping[str, Remote] | None,
) -> Path:
    builder, known = _builder(name), archives.SETS[name]
    remotes = official(name) if remotes is None else remotes
    target = directory / name / str(builder.version)
    done = _splits(target)
    wanted = [s for s in known.files if s not in done and (splits is None or s in splits)]
    if not wanted:
        return target
    names = dict.fromkeys(file for split in wanted for file in known.files[split])
    downloads = directory / "downloads" / "ecood"
    if at_hand is None:
        paths = _downloaded({file: remotes[file] for file in names}, downloads)
    else:
        paths = {file: _found(at_hand, file, remotes[file]) for file in names}

    with _unfinished(target) as folder:
        for split in wanted:
            files = [paths[file] for file in known.files[split]]
            with _reading(name, files):
                examples = known.read(split, files)
                done[split] = tfds_format.write_split(builder, split, examples, folder)
        size = sum(remotes[file].size for file in names)
        tfds_format.write_info(builder, done.values(), size, folder)
        _publish(folder, target)
    if at_hand is None:
        for path in paths.values():
            path.unlink(missing_ok=True)
    return target


def _downloaded(remotes: Mapping[str, Remote], folder: Path) -> dict[str, Path]:
    """The archives in `folder`, by name."""
    size = sum(remote.size for remote in remotes.values())
    folder.mkdir(parents=True, exist_ok=True)
    # As much again is written when they are prepared.
    need = 2 * size - sum(file.stat().st_size for file in folder.iterdir())
    if (free := shutil.disk_usage(folder).free) < need:
        raise InputError(
            f"{folder} has room for {free:,} bytes; expected {need:,}, for {', '.join(remotes)} "
            "and what is made of it: make room, or choose another by --out or TFDS_DATA_DIR."
        )
    tell(f"downloading {', '.join(remotes)} ({size / 1e6:.3g} MB) to {folder}")
    for name, remote in remotes.items():
        fetch(remote, folder / name)
    return {name: folder / name for name in remotes}


def _found(place: Path, name: str, remote: Remote) -> Path:
    """An archive, or what stands for it, in a folder at any depth; or beside a file."""
    folder, depth = (place, "**/") if place.is_dir() else (place.parent, "")
    kinds = [(name, remote)] + ([archives.INSTEAD[name]] if name in archives.INSTEAD else [])
    paths = [(path, of) for called, of in kinds for path in sorted(folder.glob(depth + called))]
    for path, of in paths:
        # Two data sets may have archives of one name, as MNIST and FashionMNIST.
        if path.is_dir() if of is None else path.is_file() and is_of(path, of):
            return path
    if paths:
        raise InputError(
            f"{paths[0][0]} is not the file that was published, by its SHA-256; expected "
            f"{paths[0][1].sha256 if paths[0][1] else 'a folder'}: fetch it again."
        )
    raise InputError(
        f"{place} holds no {' or '.join(called for called, _ in kinds)}; expected the archives as "
        f"they are published: fetch it from {remote.url}."
    )


@contextlib.contextmanager
def _reading(name: str, files: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of many types, for what is in an archive
        raise InputError(
            f"{' or '.join(map(str, files))} cannot be read as an archive of {name} "
            f"({_brief(error)}); expected it as it is published: fetch it again."
        ) from error


def _splits(folder: Path) -> dict[str, Any]:
    """The splits of a version of a data set that are there."""
    import tensorflow_datasets as tfds

    if not (folder / "dataset_info.json").exists():
        return {}
    try:
        with quiet():
            info = tfds.builder_from_directory(folder).info
    except Exception as error:  # of many types, for what is in a damaged file, or lacking
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise InputError(
            f"{folder} cannot be read as prepared data ({_brief(error)}); remove it and prepare "
            "it again."
        ) from error
    if info.file_format.value != "array_record":
        raise InputError(
            f"{folder} is of {info.file_format.value} files; expected array_record, to which "
            "splits can be added: choose another directory by --out or TFDS_DATA_DIR."
        )
    return dict(info.splits)


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, gone at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=target.parent))
    folder = made / target.name  # with the permissions of any folder
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _publish(folder: Path, target: Path) -> None:
    """Moves a folder to `target`, at once; or adds its splits to those there."""
    if not target.exists():
        os.rename(folder, target)
        return
    # Nothing reads the new files before the last step, which says that they are there.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "dataset_info.json"):
        os.replace(path, target / path.name)


@contextlib.contextmanager
def _turn(directory: Path) -> Iterator[bool]:
    """Waits until no other process prepares in a directory; whether that is certain.

    Where a file system has no locks, all go on at once: what they publish is the same, and
    archives are checked.
    """
    alone = False
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # Windows; no locks
            import fcntl

            lock = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(f"waiting for another process that prepares data in {directory}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            alone = True
        yield alone


def _by_tensorflow(name: str, directory: Path) -> Path:
    try:
        # TFDS's archives are of no use once prepared, and half an archive never is.
        with quiet(), tempfile.TemporaryDirectory(dir=directory, prefix="download-") as downloads:
            builder = _builder(name, directory)
            builder.download_and_prepare(download_dir=downloads)
            return Path(builder.data_dir)
    except Exception as error:  # from the network, the file system or TFDS
        raise InputError(
            f"the TFDS download of {name} into {directory} failed ({_brief(error)}); "
            "expected network and disk space: try again, or use data that are on disk."
        ) from error


def _builder(name: str, directory: Path | None = None) -> Any:
    import tensorflow_datasets as tfds

    kind = tfds.core.DatasetInfo
    with _BUILDING, quiet():
        fetch_info = kind.initialize_from_bucket
        # It would make a temporary folder for what it no longer fetches from there, and leave it.
        kind.initialize_from_bucket = lambda _: None
        try:
            return tfds.builder(name, data_dir=directory, file_format="array_record")
        finally:
            kind.initialize_from_bucket = fetch_info


def _brief(error: Exception) -> str:
    """The start of a message that may run over many lines."""
    return " ".join(str(error).split())[:120] or type(error).__name__
