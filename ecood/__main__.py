"""`python -m ecood`, the process of the command line: its streams and memory, and how it ends."""

import contextlib
import ctypes
import os
import sys

from ecood.signals import Signals

M_ARENA_MAX = -8  # of glibc's malloc.h
POOLS = 2  # of freed memory


def share_pools() -> None:
    """Has all threads share a few pools of freed memory, where the C library is glibc.

    It has up to eight a core, of which a long stream's threads fill one after the other.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, POOLS)


def main() -> int:
    """Runs the command line; the exit code."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # or `print` would take standard output
        sys.stderr = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115
    share_pools()
    signals = Signals("python -m ecood")
    from ecood import cli  # a signal may come while it is imported

    return cli.main(working=signals)


if __name__ == "__main__":
    sys.exit(main())
