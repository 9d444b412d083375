"""A service of its own: history in a new ledger, a release, and the database's server if any."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from msgspec import Struct

from rove.config import Config
from rove.ledger.load import load_history
from rove.readers import read_interactions
from rove.rewards import RewardMap
from serving.main import free_port
from tests.postgres import PostgresServer

_RESTART_S = 60.0


class World(Struct, frozen=True, kw_only=True):
    """What is served, and by what."""

    config: Config
    users: list[str]
    items: list[str]
    server: PostgresServer | None
    """The store's process; None with SQLite, which is in the shards'."""


@contextmanager
def prepared(path: str, overrides: Sequence[str], on_postgres: bool) -> Iterator[World]:
    """Make the ledger, and a release unless there is one; all but the release goes at the end."""
    server = PostgresServer(durable=True) if on_postgres else None
    with tempfile.TemporaryDirectory() as folder:
        try:
            own = [
                f"store.url={server.url if server else f'sqlite:///{folder}'}",
                f"serving.port={free_port()}",
                "serving.refit_interactions=null",
            ]
            config = Config.load(path, [*own, *overrides])
            assert config.data is not None and config.data.interactions is not None, path
            table, _ = read_interactions(config.data.interactions)
            rewards = RewardMap.from_config(config.rewards)
            load_history(config.store, config.serving.shards, [table], rewards)
            if not (config.releases.path / "current").exists():
                command = [sys.executable, "-m", "training.factorise", path, "--no-report"]
                subprocess.run([*command, *overrides], check=True, stdout=subprocess.DEVNULL)
            yield World(
                config=config,
                users=np.unique(table["user_id"]).tolist(),
                items=np.unique(table["item_id"]).tolist(),
                server=server,
            )
        finally:
            if server is not None:
                server.close()


def crash(server: PostgresServer) -> None:
    """Kill the server's process."""
    server.stop(signal.SIGKILL)


def restart(server: PostgresServer) -> None:
    """Start the server on the same files, once what the killed one left behind has ended."""
    deadline = time.monotonic() + _RESTART_S
    while True:
        try:
            server.start()
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
