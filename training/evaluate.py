"""`python -m training.evaluate CONFIG [a.b=c ...]`: how well rankings foresee later visits.

Rove on its frozen and on its adapted language model, beside tuned peers, on one split in time:
NDCG@10, recall, MRR, coverage and calibration for all, warm and cold items and by how much is known
of the user.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rove.config import Config
from rove.errors import RoveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    parser = argparse.ArgumentParser("python -m training.evaluate", description=__doc__)
    parser.add_argument("config", help="YAML configuration; training.holdout_share is measured on")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings to replace")
    parser.add_argument(
        "--ledger", action="store_true", help="behaviour from the ledger, not from the files"
    )
    parser.add_argument(
        "--release",
        nargs="+",
        action="extend",
        default=[],
        metavar="FOLDER|ID",
        help="releases whose language models are measured as well",
    )
    parser.add_argument(
        "--cold-share",
        type=float,
        default=0.0,
        metavar="S",
        help="share of the items whose past is taken away (default: 0: only those without one)",
    )
    parser.add_argument(
        "--live", action="store_true", help="rivals observe each visit after ranking for it"
    )
    parser.add_argument("--visits", type=int, metavar="N", help="measure on the first N at most")
    parser.add_argument(
        "--peers", nargs="*", metavar="NAME", help="peers to measure (default: all)"
    )
    parser.add_argument("--seed", type=int, help="default: training.seed")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: under outputs/")
    options = parser.parse_args(arguments)
    try:
        config = Config.load(options.config, options.overrides)
        # torch takes seconds to import: not before the configuration is known to be right.
        from training.evaluate_job import run
        from training.evaluate_report import Request

        run(
            config,
            Request(
                from_ledger=options.ledger,
                releases=tuple(options.release),
                cold_share=options.cold_share,
                live=options.live,
                max_visits=options.visits,
                peers=None if options.peers is None else tuple(options.peers),
                seed=config.training.seed if options.seed is None else options.seed,
                output=options.output,
            ),
        )
    except RoveError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
