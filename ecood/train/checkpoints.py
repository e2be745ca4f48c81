"""The folder of a training run: orbax checkpoints, what the run is, and its log."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO, Any

import jax
from jax.experimental import multihost_utils

from ecood.errors import InputError, check_text
from ecood.weights import atomic_path, only_writer

__all__ = ["Checkpoints"]

MARGIN = 2**20  # bytes of a checkpoint beside its arrays


ARRAYS = {"train": "training images", "held_out": "held-out images"}


def _differences(found: dict[str, Any], run: dict[str, Any]) -> Iterator[str]:
    """What a run on disk has instead of what this one has, in words."""
    for name, value in run.items():
        if found.get(name) == value:
            continue
        if name in ARRAYS:
            yield f"other {ARRAYS[name]}"
            continue
        old, new = (
            [line.strip() for line in str(x).splitlines()] for x in (found.get(name), value)
        )
        if len(new) == 1 or len(old) == 1:
            had = f"no {name}" if found.get(name) is None else f"{name} = {found[name]!r}"
            yield f"{had} instead of {'none' if value is None else repr(value)}"
        else:  # modules, an attribute a line
            pair = (set(old) - set(new), set(new) - set(old))
            yield " instead of ".join(", ".join(sorted(lines)) or "nothing" for lines in pair)


class Checkpoints:
    """A run's state under one folder, or nothing on disk if there is none.

    The folder holds `run.json` (what the run is), `log.jsonl` (one line an evaluation)
    and the two newest checkpoints. Orbax renames each when it is whole, so a run killed
    at any moment resumes. Of several processes that train together (`jax.distributed`),
    the first claims the folder and keeps the log; all must see the same folder and make
    the same calls. `InputError` tells of a folder that holds another run, is damaged or
    cannot be written.
    """

    def __init__(self, directory: str | pathlib.Path | None, run: dict[str, Any]):
        """Opens or makes the folder of the run that `run`, JSON values, identifies."""
        # The lines of the log, those before a resumption included.
        self.log: list[dict[str, float]] = []
        self._manager = None
        if directory is None:
            return
        self._directory = pathlib.Path(directory).absolute()
        check_text(self._directory)
        self._first = jax.process_index() == 0
        if self._first:
            with self._writing():
                self._claim(run)
        multihost_utils.sync_global_devices("the folder is claimed")
        import orbax.checkpoint as ocp  # heavy, and only needed here

        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory / "checkpoints", options=options)
        self._args = ocp.args

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Of several processes one may have failed because another is gone: orbax would wait for it.
        if kind is None or jax.process_count() == 1:
            self.close()

    def _check(self, run: dict[str, Any]) -> bool:
        """Whether the folder is this run's already; refused if it is anything else's."""
        path = self._directory / "run.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
            except ValueError:
                raise InputError(
                    f"{path} is damaged; remove {self._directory} or choose another directory."
                ) from None
            if differences := list(_differences(found, json.loads(json.dumps(run)))):
                raise InputError(
                    f"{self._directory} holds a run with {'; '.join(differences)}; repeat that "
                    "run's own command to resume it, or remove the folder, or choose another."
                )
            return True
        if self._directory.is_dir() and any(
            other.name != "lock" and not other.name.startswith(f".{path.name}.")  # a kill's
            for other in self._directory.iterdir()
        ):
            raise InputError(
                f"{self._directory} is not empty and holds no run; choose another directory."
            )
        return False

    def _claim(self, run: dict[str, Any]) -> None:
        """Checks before it makes the lock's file, and again when nobody else can claim."""
        self._check(run)
        self._directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(self._only_writer())
            if not self._check(run):
                with atomic_path(self._directory / "run.json") as temporary:
                    temporary.write_text(json.dumps(run, indent=1) + "\n")
            stack.pop_all()
        self._lock = lock

    def _only_writer(self) -> IO[str]:
        """Holds the folder until `close`, or the end of the process, however it ends."""
        file = (self._directory / "lock").open("a")
        if only_writer(file) is not False:
            return file
        file.close()
        raise InputError(
            f"another process is training in {self._directory}; wait for it or choose another "
            "directory."
        )

    def restore(self, state: Any) -> Any:
        """The newest checkpoint in the form of `state`, else `state` itself."""
        if self._manager is None:
            return state
        step = self._manager.latest_step()
        if step is not None:
            try:
                state = self._manager.restore(step, args=self._args.StandardRestore(state))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"the checkpoint {self._directory / 'checkpoints' / str(step)} is damaged, or "
                    "of another model than this run's; remove it to resume from the one before, or "
                    "choose another directory."
                ) from error
        self._rewind_log(step or 0)
        return state

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint in the background; `close` may raise its errors."""
        if self._manager is not None:
            with self._writing():
                size = MARGIN + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
                if shutil.disk_usage(self._directory).free < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._manager.save(step, args=self._args.StandardSave(state))

    def append_log(self, record: dict[str, float]) -> None:
        """Adds a line to `log.jsonl`."""
        self.log.append(record)
        if self._manager is not None and self._first:
            with self._writing(), (self._directory / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._manager is None:
            return
        try:
            with self._writing():
                self._manager.wait_until_finished()
        finally:
            self._manager.close()
            if self._first:
                for partial in (self._directory / "checkpoints").glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(partial, ignore_errors=True)
                self._lock.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuses in a sentence what the system or tensorstore refuses."""
        try:
            yield
        except (OSError, ValueError) as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, OSError):
                reason = error.strerror
            elif code:
                reason = os.strerror(int(code[1]))
            else:
                raise
            raise InputError(
                f"writing to {self._directory} failed ({reason}); the checkpoints before stay: "
                "free some space and run the same command again to resume."
            ) from error

    def _rewind_log(self, step: int) -> None:
        """Leaves the lines up to a checkpoint: a kill may have come after more, or within one."""
        path = self._directory / "log.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):  # the line that a kill cut short
                self.log.append(json.loads(line))
        self.log = [record for record in self.log if record["step"] <= step]
        if self._first:
            with atomic_path(path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in self.log))
