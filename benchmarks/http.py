"""Requests per second and latency of the HTTP API, written to benchmarks/http.md.

    python -m benchmarks.http [CONFIG [a.b=c ...]] [--seconds 6] [--output benchmarks/http.md]

Loads the configuration's history into a ledger of its own, makes a release unless there is one,
serves it, and sends the load of `benchmarks._client` from another process on the same machine:
through the gateway, straight to the shards, and to an empty raw-ASGI application in the same Serve.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks._client import Load, Measurement
from rove.config import Config
from rove.errors import RoveError
from rove.ledger.load import load_history
from rove.readers import read_interactions
from rove.rewards import RewardMap
from rove.sharding import shard_of
from serving.main import free_port, prepare_environment

CONNECTIONS = (1, 8, 32)
_NUM_USERS = 1000
_NUM_CANDIDATES = 100
_NUM_RANKED = 10
_WARM_UP_S = 1.0
_REPEATS = 3
_EMPTY = "an empty raw-ASGI application"


class Row(NamedTuple):
    """One line of the table: a name and the requests it stands for."""

    name: str
    requests: list[tuple[str, str, str]]


def rows(config: Config, users: Sequence[str], items: Sequence[str]) -> list[Row]:
    """Return what is measured, the empty application first."""
    rng = np.random.default_rng(0)
    shards = [shard_of(user, config.serving.shards) for user in users]
    straight = [f"/shards/{shard}" for shard in shards]
    gateway = [""] * len(users)
    few = [rng.choice(items, _NUM_CANDIDATES, replace=False).tolist() for _ in users]
    some = [
        _body(user_id=user, k=_NUM_RANKED, candidates={"item_ids": ids})
        for user, ids in zip(users, few, strict=True)
    ]
    whole = [_body(user_id=user, k=_NUM_RANKED) for user in users]
    clicks = [
        _body(
            interactions=[
                {
                    "interaction_id": "benchmark-{n}",
                    "user_id": user,
                    "item_id": ids[0],
                    "type": "click",
                }
            ]
        )
        for user, ids in zip(users, few, strict=True)
    ]
    table = [Row(_EMPTY, [("POST", "/empty", body) for body in whole])]
    for where, prefixes in (("straight", straight), ("gateway", gateway)):
        for name, path, bodies in (
            (f"rank {_NUM_CANDIDATES} candidates", "/v1/rank", some),
            ("rank the whole catalogue", "/v1/rank", whole),
            ("one event", "/v1/events", clicks),
        ):
            paths = [prefix + path for prefix in prefixes]
            posts = [("POST", at, body) for at, body in zip(paths, bodies, strict=True)]
            table.append(Row(f"{name}, {where}", posts))
    return table


def _body(**members: Any) -> str:
    return msgspec.json.encode(members).decode()


def measure(
    config: Config, row: Row, num_connections: int, seconds: float, first_n: int
) -> Measurement:
    """Send one row's load from another process."""
    load = Load(
        host=config.serving.host,
        port=config.serving.port,
        num_connections=num_connections,
        warm_up_s=_WARM_UP_S,
        duration_s=seconds,
        requests=row.requests,
        first_n=first_n,
    )
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(load))
        file.flush()
        command = [sys.executable, "-m", "benchmarks._client", file.name]
        out = subprocess.run(command, check=True, capture_output=True, timeout=60 + 10 * seconds)
    return msgspec.json.decode(out.stdout, type=Measurement)


def measure_all(
    config: Config, table: Sequence[Row], seconds: float
) -> Iterator[tuple[str, int, Measurement]]:
    """Yield the median of some runs of each row at each number of connections."""
    first_n = 0
    for row in table:
        for num_connections in CONNECTIONS:
            runs = []
            for _ in range(_REPEATS):
                runs.append(measure(config, row, num_connections, seconds, first_n))
                first_n += 10_000_000
            runs.sort(key=lambda run: run.rate)
            yield row.name, num_connections, runs[len(runs) // 2]


def report(results: Sequence[tuple[str, int, Measurement]], head: Sequence[str]) -> str:
    """Return the page."""
    empty = {count: run.rate for name, count, run in results if name == _EMPTY}
    cells: dict[str, list[str]] = {}
    for name, count, run in results:
        bad = sum(number for status, number in run.statuses.items() if status >= 300)
        cells.setdefault(name, []).append(
            f"{run.rate:,.0f}, {run.p50_ms:.2f}, {run.p99_ms:.1f}, {run.rate / empty[count]:.2f}"
            + (f" ({bad} failed)" if bad else "")
        )
    lines = [*head, ""]
    lines.append("| what | " + " | ".join(f"{n} connections" for n in CONNECTIONS) + " |")
    lines.append("| --- |" + " --- |" * len(CONNECTIONS))
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in cells.items()]
    return "\n".join(lines) + "\n"


@contextmanager
def served(config: Config) -> Iterator[None]:
    """Serve the configuration and, beside it, the empty application."""
    prepare_environment()
    runner = importlib.import_module("serving.runner")
    serve = importlib.import_module("ray.serve")
    empty = importlib.import_module("benchmarks._empty")
    with runner.running(config):
        serve.run(empty.application(), name="empty", route_prefix="/empty")
        yield


def _prepared(path: str, overrides: Sequence[str], folder: Path) -> tuple[Config, Any]:
    """Return the configuration, with a ledger of its own, and the history it holds."""
    own = [
        f"store.url=sqlite:///{folder}",
        f"serving.port={free_port()}",
        "serving.refit_interactions=null",  # a refit would take a core for some seconds
    ]
    config = Config.load(path, [*own, *overrides])
    assert config.data is not None and config.data.interactions is not None, path
    table, _ = read_interactions(config.data.interactions)
    rewards = RewardMap.from_config(config.rewards)
    load_history(config.store, config.serving.shards, [table], rewards)
    if not (config.releases.path / "current").exists():
        command = [sys.executable, "-m", "training.factorise", path, *overrides]
        subprocess.run(command, check=True)
    return config, table


def _head(config: Config, arguments: Sequence[str], num_items: int) -> list[str]:
    command = " ".join(["python -m benchmarks.http", *arguments])
    return [
        "# HTTP",
        "",
        f"`{command}`, {datetime.date.today().isoformat()}, {os.cpu_count()} cores "
        f"({platform.machine()}), the load generator on the same cores.",
        "",
        f"{config.serving.shards} shards, {num_items:,} items, history of the users loaded, "
        f"ledger on (`store.durability={config.store.durability}`), HAProxy mode, no refit "
        "during the run. Cells: "
        "requests/s, p50 ms, p99 ms, share of the empty application's rate; "
        f"medians of {_REPEATS} runs.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser("python -m benchmarks.http", description=__doc__)
    parser.add_argument("config", nargs="?", default="examples/shop/rove.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/http.md"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            config, table = _prepared(options.config, options.overrides, Path(folder))
        except RoveError as error:
            print(f"benchmarks.http: {error}", file=sys.stderr)
            return 2
        users = table["user_id"].unique().to_pylist()[:_NUM_USERS]
        items = table["item_id"].unique().to_pylist()
        results = []
        with served(config):
            table_rows = rows(config, users, items)
            for name, count, run in measure_all(config, table_rows, options.seconds):
                print(f"{name} @ {count}: {run.rate:,.0f}/s, p99 {run.p99_ms:.1f} ms", flush=True)
                results.append((name, count, run))
    options.output.write_text(report(results, _head(config, arguments, len(items))), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
