"""`python -m training.adapt CONFIG [a.b=c ...]`: the language model learns from behaviour."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rove.config import Config
from rove.errors import RoveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    parser = argparse.ArgumentParser("python -m training.adapt", description=__doc__)
    parser.add_argument("config", help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings to replace")
    parser.add_argument(
        "--ledger", action="store_true", help="learn from the ledger, not from the files"
    )
    parser.add_argument(
        "--no-report", action="store_true", help="do not measure quality on held-out interactions"
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        config = Config.load(options.config, options.overrides)
        # torch and Ray take seconds to import: not before the configuration is known to be right.
        from training.adapt_job import run

        run(config, from_ledger=options.ledger, with_report=not options.no_report)
    except RoveError as error:
        print(f"training.adapt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
