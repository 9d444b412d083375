"""What is acknowledged while everything is being killed: events, decisions and posteriors.

    python -m benchmarks.chaos [CONFIG [a.b=c ...]] --store sqlite|postgresql
        [--minutes 30] [--every 10] [--seed 1] [--output FILE]

Serves the configuration on a ledger of its own, measures what `rove.client` gets through, and then
sends half of that while a shard, a gateway, the encoder or PostgreSQL's server is killed (SIGKILL)
every N seconds on average. Nothing but the database's server is started again by hand.

    preparing   the ledger, the release, the database's server
    load        the clients, and what was acknowledged to them
    kills       what is killed when, and how long it took to answer again
    checking    what was acknowledged against the ledger; what was served against what is rebuilt
    running     all of it, in order
    table       the page

Exit status 1: something acknowledged is missing or counted twice, or a posterior differs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rove.errors import RoveError
from serving.main import prepare_environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser("python -m benchmarks.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", nargs="?", default="examples/shop/rove.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="of killing")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between kills, mean")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where the table is written, besides")
    options = parser.parse_args(arguments)
    prepare_environment()
    running = importlib.import_module("benchmarks.chaos.running")
    try:
        report = running.run(
            options.config,
            options.overrides,
            on_postgres=options.store == "postgresql",
            duration_s=60.0 * options.minutes,
            every_s=options.every,
            seed=options.seed,
        )
    except RoveError as error:
        print(f"benchmarks.chaos: {error}", file=sys.stderr)
        return 2
    command = " ".join(["python -m benchmarks.chaos", *arguments])
    page: str = importlib.import_module("benchmarks.chaos.table").page(command, report)
    print(page, flush=True)
    if options.output is not None:
        options.output.write_text(page, "utf-8")
    return 0 if report.findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
