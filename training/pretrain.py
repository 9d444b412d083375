"""`python -m training.pretrain CONFIG [a.b=c ...]`: teach the language model with texts alone.

The same command goes on where a stopped run was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rove.config import Config
from rove.errors import RoveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    parser = argparse.ArgumentParser("python -m training.pretrain", description=__doc__)
    parser.add_argument("config", help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings to replace")
    options = parser.parse_args(arguments)
    try:
        config = Config.load(options.config, options.overrides)
        # torch and Ray take seconds to import: not before the configuration is known to be right.
        from training.pretraining import run

        run(config)
    except RoveError as error:
        print(f"training.pretrain: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
