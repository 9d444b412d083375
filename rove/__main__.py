"""`python -m rove`: the `rove` command."""

from __future__ import annotations

import sys

from rove.cli import main

if __name__ == "__main__":
    sys.exit(main())
