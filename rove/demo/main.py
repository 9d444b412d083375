"""`rove demo`: the steps in order.

Everything is written below one folder (`outputs/demo`): the configuration that was used, the
history, the ledger, the release, a log per command, the plot. What an earlier demo left there is
replaced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console

from rove.baselines.base import Ints
from rove.baselines.replay import Requests, requests_of
from rove.config import Config
from rove.demo import plot, processes, report
from rove.demo.frozen import rank_frozen
from rove.demo.live import Live
from rove.demo.processes import Job, Server
from rove.demo.reading import SETTINGS, Reading, job, reading_of
from rove.demo.replay import Traffic, replay
from rove.demo.results import FROZEN, LEARNING, Results, make_rows, precisions, summary
from rove.demo.rivals import Rivals, rank_rivals
from rove.demo.split import Shop, read_shop, write_history
from rove.demo.steps import Steps
from rove.errors import DataError, InvalidInput
from rove.release import latest

K = 10
_SEED = 0
# Ten weeks pass in about a minute, so shards exchange what they learnt more often than by default:
# every 0.1 s is a few hours of the shop's time.
_FASTER = ("serving.sync_interval_s=0.1",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demo:
    """What every step needs."""

    folder: Path
    config: Config
    config_path: Path
    shop: Shop
    requests: Requests
    steps: Steps


def run(options: argparse.Namespace) -> int:
    """Run the demo; return the exit status."""
    # The server is a session of its own: it has to be stopped before the demo may end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    demo = _prepare(options)
    rivals, reading = _release(demo)
    ranked = {**rivals.ranked, FROZEN: _rank_frozen(demo)}
    server = Server(demo.config, demo.config_path, demo.folder / "serve.log")
    keep = False
    try:
        with demo.steps.step("serve", "starting the server"):
            server.wait_ready()
        slates, traffic = _replay(demo, server, ranked)
        ranked[LEARNING] = _codes(slates, demo.shop.item_ids)[demo.requests.baskets]
        results = _results(demo, server, ranked, rivals, reading, traffic)
        _show(demo, results)
        if options.json is not None:
            Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(results)))
        keep = options.keep
    finally:
        if not keep:
            with demo.steps.step("stop", "stopping the server"):
                server.stop()
    _farewell(demo, server, keep)
    return 0


def _prepare(options: argparse.Namespace) -> _Demo:
    if options.invoices is not None and options.invoices < 1:
        raise InvalidInput(f"--invoices must be at least 1, got {options.invoices}")
    folder = Path(options.folder)
    steps = Steps(Console())
    settings = [*_FASTER, *SETTINGS, *options.overrides]
    config = Config.load(options.config, settings)
    processes.check_free(config)
    for part in ("ledger", "frozen", "releases", "adapt"):
        shutil.rmtree(folder / part, ignore_errors=True)
    with steps.step("split", "cutting the shop's files in time"):
        shop = read_shop(config, options.invoices)
        requests = requests_of(shop.history, shop.baskets)
        if not len(requests.baskets):
            raise DataError(
                f"none of the {len(shop.visits)} invoices has a product new to its customer; "
                "replay more"
            )
        write_history(shop, folder / "history.parquet")
    config = Config.load(
        options.config,
        [
            *settings,
            f"data.interactions={json.dumps({'path': str(folder / 'history.parquet')})}",
            _store_at(folder / "ledger"),
            f"adapt.path={json.dumps(str(folder / 'adapt'))}",
            f"releases.path={json.dumps(str(folder / 'releases'))}",
        ],
    )
    return _Demo(
        folder=folder,
        config=config,
        config_path=config.write(folder),
        shop=shop,
        requests=requests,
        steps=steps,
    )


def _release(demo: _Demo) -> tuple[Rivals, Reading]:
    """Make the release; the history is loaded and the baselines are fitted meanwhile."""
    path, rng = str(demo.config_path), np.random.default_rng(_SEED)
    arguments = job(demo.config, demo.config_path)
    learning = Job(arguments, demo.folder / "release.log")
    try:
        with demo.steps.step("load", f"rove load {path}"):
            processes.run(("rove", "load", path), demo.folder / "load.log")
        with demo.steps.step("baselines", "fitting, tuning and replaying the baselines") as say:
            rivals = rank_rivals(demo.shop, K, rng, say)
        with demo.steps.console.status(f"python -m {' '.join(arguments)}"):
            duration_s = learning.wait()
    finally:
        learning.stop()
    demo.steps.done("release", f"meanwhile: python -m {arguments[0]}", duration_s)
    shutil.copytree(demo.folder / "ledger", demo.folder / "frozen")
    reading = reading_of(demo.config, latest(demo.config.releases.path))
    demo.steps.console.print(reading.line(), highlight=False, soft_wrap=True)
    return rivals, reading


def _rank_frozen(demo: _Demo) -> Ints:
    frozen = Config.load(demo.config_path, [_store_at(demo.folder / "frozen")])
    with demo.steps.step("frozen", "ranking with the release as it is"):
        slates = rank_frozen(frozen, demo.shop.visits, demo.requests.baskets, K)
    return _codes(slates, demo.shop.item_ids)


def _replay(
    demo: _Demo, server: Server, ranked: dict[str, Ints]
) -> tuple[list[list[str]], Traffic]:
    visits = demo.shop.visits
    start = time.perf_counter()
    with Live(
        demo.steps.console, len(visits), demo.requests, demo.shop.item_ids, ranked, K
    ) as live:
        slates, traffic = replay(server.url, visits, K, live.seen)
    title = f"replaying {len(visits):,} invoices over HTTP"
    demo.steps.done("replay", title, time.perf_counter() - start)
    return slates, traffic


def _results(
    demo: _Demo,
    server: Server,
    ranked: dict[str, Ints],
    rivals: Rivals,
    reading: Reading,
    traffic: Traffic,
) -> Results:
    return Results(
        k=K,
        release=latest(demo.config.releases.path).id,
        num_history=len(demo.shop.history.users),
        cut=datetime.fromtimestamp(demo.shop.cut, UTC).isoformat(),
        num_invoices=len(demo.shop.visits),
        num_requests=len(demo.requests.baskets),
        num_users=len(np.unique(demo.requests.users)),
        rows=make_rows(ranked, demo.requests, K, np.random.default_rng(_SEED)),
        reading=reading,
        settings=rivals.settings,
        missing=rivals.missing,
        http=summary(traffic),
        server=server.url,
        plot=_draw(demo, ranked),
        seconds=demo.steps.seconds,
    )


def _draw(demo: _Demo, ranked: dict[str, Ints]) -> str | None:
    path = demo.folder / "learning-curve.png"
    times = np.array([demo.shop.visits[index].basket.timestamp for index in demo.requests.baskets])
    try:
        plot.draw(precisions(ranked, demo.requests, K), times, K, path)
    except InvalidInput as error:
        demo.steps.console.print(error.detail)
        return None
    return str(path)


def _show(demo: _Demo, results: Results) -> None:
    console = demo.steps.console
    console.print()
    console.print(report.table(results))
    for line in report.lines(results):
        console.print(line, highlight=False)


def _farewell(demo: _Demo, server: Server, keep: bool) -> None:
    console = demo.steps.console
    if keep:
        console.print(f"API and docs: {server.url}/docs   stop the server: kill {server.pid}")
    else:
        console.print(
            f"To look around: rove serve {demo.config_path}, then {server.url}/docs; "
            "stop it with Ctrl-C."
        )


def _store_at(folder: Path) -> str:
    return f"store.url={json.dumps(f'sqlite:///{folder}')}"


def _codes(slates: Sequence[Sequence[str]], item_ids: Sequence[str]) -> Ints:
    """Return slates of ids as codes (R, K), -1 where a slate is shorter than K."""
    codes = {item_id: code for code, item_id in enumerate(item_ids)}
    table = np.full((len(slates), K), -1, np.int64)
    for row, slate in zip(table, slates, strict=True):
        row[: len(slate)] = [codes[item_id] for item_id in slate]
    return table
