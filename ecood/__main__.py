"""`python -m ecood`: see `ecood.cli`."""

import sys

from ecood.cli import main

sys.exit(main())
