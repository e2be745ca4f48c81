"""How a program ends that is interrupted: in order, without a traceback, by the signal's code."""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["Signals"]

NAMES = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
AGAIN = 0.25  # seconds after which an exception that was swallowed is raised again


class Signals:
    """Ends the process at the first signal: at once, but within its block by a KeyboardInterrupt.

    The exception lets the block remove what is half written; while it does, further signals are
    ignored. Whatever swallows it, a destructor, say, gets it again. An import is not interrupted,
    as C++ that runs then may not survive it: the exception comes as soon as it is done. The exit
    code is 128 and the signal's number.
    """

    def __init__(self, program: str):
        """Watches all but what the process was told to ignore, as by `nohup`."""
        self._program, self._seen, self._inside = program, 0, False
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        sys.unraisablehook = self._unraisable

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        if self._seen:
            self._end()

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self._inside:
            self._seen = self._seen or number
            self._end()
        if not self._seen:
            self._seen = number
            threading.Thread(target=self._insist, daemon=True).start()
        if not (_interrupted() or _importing(frame)):
            raise KeyboardInterrupt

    def _insist(self) -> None:
        """Sends the signal again until the block has ended; only a signal wakes what waits."""
        while self._inside:
            time.sleep(AGAIN)
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident, self._seen)
            else:  # Windows
                _thread.interrupt_main(self._seen)

    def _unraisable(self, what: "sys.UnraisableHookArgs") -> None:
        if not self._seen:
            sys.__unraisablehook__(what)

    def _end(self) -> None:
        """Leaves at once: threads of XLA do not survive the interpreter's own end."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"{self._program}: {NAMES[signal.Signals(self._seen).name]}\n".encode())
        os._exit(128 + self._seen)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is just being imported."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _interrupted() -> bool:
    """Whether the exception is being handled, by `except`, `finally` or the end of a `with`."""
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
