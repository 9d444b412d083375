"""What keeping costs: events and decisions through the engine, by store and durability.

    python -m benchmarks.store [--write benchmarks/serving.md]

One engine in this process, its ledger on each store in turn, several rounds; PostgreSQL is a
server of its own on a unix socket, with fsync. The reference is a store that forgets: SQLite
without fsync, in memory. Cells: milliseconds a call (median), of which this process computed
(mean). The second figure depends less on what else the machine does; it leaves out the server.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from rove.config import StoreSection
from rove.engine import Engine
from rove.events import Interaction
from tests.postgres import PostgresServer
from tests.worlds import NUM_ITEMS, Shop, did, request

ROUNDS = 3
FORGETS = "SQLite that forgets"
HEADING = "## The store"


@contextmanager
def sections() -> Iterator[dict[str, StoreSection]]:
    """Give a store of each kind, empty, by its name in the table."""
    with ExitStack() as undo:
        disk = Path(tempfile.mkdtemp(prefix="rove-store-"))
        undo.callback(shutil.rmtree, disk)
        memory = Path(tempfile.mkdtemp(prefix="rove-store-", dir="/dev/shm"))
        undo.callback(shutil.rmtree, memory)
        server = undo.enter_context(closing(PostgresServer(durable=True)))
        made = {FORGETS: StoreSection(url=f"sqlite:///{memory}", durability="process")}
        for durability in ("process", "power_loss"):
            made[f"SQLite, {durability}"] = StoreSection(
                url=f"sqlite:///{disk / durability}", durability=durability
            )
            made[f"PostgreSQL, {durability}"] = StoreSection(
                url=server.url, durability=durability, schema_prefix=durability
            )
        yield made


def timed(calls: list[Callable[[], object]]) -> tuple[list[float], float]:
    """Return how long each call took and what this process computed in all, in seconds."""
    waits, computed = [], time.process_time()
    for call in calls:
        started = time.perf_counter()
        call()
        waits.append(time.perf_counter() - started)
    return waits, time.process_time() - computed


def work(engine: Engine, mark: str) -> dict[str, tuple[list[float], float]]:
    """Do the work of one round."""
    draws = np.random.default_rng(5)

    def events(number: int, size: int) -> list[Interaction]:
        return [
            did(
                f"{mark}-{size}-{number}-{place}",
                f"u{draws.integers(500)}",
                f"item-{draws.integers(NUM_ITEMS)}",
            )
            for place in range(size)
        ]

    def requests(number: int, size: int) -> Callable[[], object]:
        wanted = [request(f"u{draws.integers(500)}", k=10) for _ in range(size)]
        return lambda: engine.rank(wanted)

    def observing(number: int, size: int) -> Callable[[], object]:
        happened = events(number, size)
        return lambda: engine.observe(happened)

    return {
        "1 event": timed([observing(n, 1) for n in range(200)]),
        "100 events": timed([observing(n, 100) for n in range(40)]),
        "1 decision": timed([requests(n, 1) for n in range(200)]),
        "32 decisions": timed([requests(n, 32) for n in range(40)]),
    }


def measured() -> dict[str, dict[str, tuple[float, float]]]:
    """Return (median wait, mean computing) in milliseconds by store and work."""
    with ExitStack() as undo:
        stores = undo.enter_context(sections())
        engines = {}
        for name, section in stores.items():
            folder = Path(tempfile.mkdtemp(prefix="rove-shop-"))
            undo.callback(shutil.rmtree, folder)
            engine = undo.enter_context(closing(Shop(folder, store=section).engine()))
            if name == FORGETS:
                with engine._ledger._database.reading() as connection:
                    connection.exec_driver_sql("PRAGMA synchronous = OFF")
            work(engine, "warm")
            engines[name] = engine
        rounds = [
            {name: work(engine, str(number)) for name, engine in engines.items()}
            for number in range(ROUNDS)
        ]
    return {
        name: {
            what: (
                1e3 * float(np.median([wait for one in rounds for wait in one[name][what][0]])),
                1e3
                * float(np.mean([one[name][what][1] / len(one[name][what][0]) for one in rounds])),
            )
            for what in rounds[0][name]
        }
        for name in engines
    }


def table(figures: dict[str, dict[str, tuple[float, float]]], load: float) -> str:
    """Return the section of the report."""
    works = list(next(iter(figures.values())))
    cpus = os.cpu_count()
    lines = [
        HEADING,
        "",
        f"`python -m benchmarks.store`, {datetime.date.today()}, {cpus} cores "
        f"({platform.machine()}), load average {load:.1f} at the start.",
        "",
        "One engine, no HTTP, 60 items; PostgreSQL on a unix socket, with fsync. Cells: "
        "milliseconds a call (median), of which the engine's process computed (mean).",
        "",
        f"| store | {' | '.join(works)} |",
        f"| --- |{' --- |' * len(works)}",
    ]
    for name, row in figures.items():
        cells = [f"{row[what][0]:.2f}, {row[what][1]:.2f}" for what in works]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description="What keeping costs, by store.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the section into FILE")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with threadpool_limits(1):
        text = table(measured(), load)
    print(text)
    if options.write is not None:
        before = options.write.read_text("utf-8") if options.write.exists() else "# Serving\n\n"
        head, _, rest = before.partition(HEADING)
        _, mark, after = rest.partition("\n## ")
        options.write.write_text(head + text + (f"\n## {after}" if mark else ""), "utf-8")


if __name__ == "__main__":
    main()
