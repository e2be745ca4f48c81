"""How a program ends that is interrupted: in order, without a traceback, by the signal's code."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from types import FrameType

__all__ = ["Signals"]

NAMES = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


class Signals:
    """Ends the process at the first signal: at once, but within its block by a KeyboardInterrupt.

    The exception lets the block remove what is half written. Whatever swallows it gets it again;
    further signals are ignored. The exit code is 128 and the signal's number.
    """

    def __init__(self, program: str):
        """Watches all but what the process was told to ignore, as by `nohup`."""
        self._program, self._seen, self._inside, self._lost = program, 0, False, False
        for name in NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._came)
        sys.unraisablehook = self._swallowed

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        if self._seen:
            self._end()

    def _came(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._seen and not self._lost:
            return
        self._seen, self._lost = self._seen or number, False
        if self._inside:
            raise KeyboardInterrupt
        self._end()

    def _swallowed(self, what: "sys.UnraisableHookArgs") -> None:
        if not self._seen:
            sys.__unraisablehook__(what)
        elif self._inside:
            self._lost = True  # from another thread: what is raised in here is swallowed as well
            threading.Timer(0.01, _thread.interrupt_main, (self._seen,)).start()

    def _end(self) -> None:
        """Leaves at once: threads of XLA do not survive the interpreter's own end."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"{self._program}: {NAMES[signal.Signals(self._seen).name]}\n".encode())
        os._exit(128 + self._seen)
