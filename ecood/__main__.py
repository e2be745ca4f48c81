"""`python -m ecood`, the process of the command line: its streams, and how it ends."""

import os
import sys

from ecood.signals import Signals


def main() -> int:
    """Runs the command line; the exit code."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # or `print` would take standard output
        sys.stderr = open(os.devnull, "w", errors="backslashreplace")  # noqa: SIM115
    signals = Signals("python -m ecood")
    from ecood import cli  # a signal may come while it is imported

    return cli.main(working=signals)


if __name__ == "__main__":
    sys.exit(main())
