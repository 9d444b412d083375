"""One small shop for all tests of this folder: its release, its ledger, and `rove serve` on it.

Everything is made by the commands a user would type, each in a process of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from msgspec import Struct

from rove.config import Config
from rove.sharding import shard_of
from serving.main import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"
NUM_SHARDS = 2
NUM_USERS = 100
NUM_ITEMS = 300
COMMAND_S = 120.0
READY_S = 120.0
STOP_S = 60.0


class Server(Struct, kw_only=True):
    """A running `rove serve`."""

    config_path: Path
    config: Config
    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client
    users: list[str]
    items: list[str]

    def user_of(self, shard: int, number: int = 0) -> str:
        """Return a user with a history who lives in `shard`."""
        return [user for user in self.users if shard_of(user, NUM_SHARDS) == shard][number]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        env={**os.environ, **environment},
    )


def start_server(config_path: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start `rove serve CONFIG`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rove", "serve", str(config_path)],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once `/readyz` says so."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not there yet
        time.sleep(0.05)
    pytest.fail(f"not ready after {READY_S} s: {log.read_text()}")


def stop(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Send the signal and return the status that the server ends with."""
    process.send_signal(number)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def session_of(pid: int) -> str:
    """Return the processes that are left of those a server started."""
    listing = ["ps", "--sid", str(pid), "-o", "pid=,args="]
    return subprocess.run(listing, capture_output=True, text=True).stdout


@contextmanager
def another_server(
    server: Server, config_path: Path, log: Path, number: signal.Signals
) -> Iterator[httpx.Client]:
    """`rove serve CONFIG` beside the shared one. The signal then ends it quickly, it leaves nothing
    behind, and the other one still serves."""
    port = Config.load(config_path).serving.port
    process = start_server(config_path, log)
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0)
    try:
        wait_ready(http, process, log)
        yield http
        started = time.monotonic()
        assert stop(process, number) == 0, log.read_text()
        assert time.monotonic() - started < 20.0
        with pytest.raises(httpx.ConnectError, match=re.escape("refused")):
            http.get("/healthz")
        assert "Stopped." in log.read_text()
        assert server.http.get("/readyz").status_code == 200
        deadline = time.monotonic() + 10.0
        while session_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert session_of(process.pid) == ""
    finally:
        http.close()
        if process.poll() is None:
            stop(process, number)


def write_shop(folder: Path) -> tuple[Path, list[str], list[str]]:
    """Write the most frequent items as some users bought them, and the configuration."""
    bought = pq.read_table(EXAMPLE / "purchases.parquet")
    users = np.random.default_rng(0).permutation(np.unique(bought["user_id"]))[:NUM_USERS]
    counts = pc.value_counts(bought["item_id"]).to_pylist()
    counts.sort(key=lambda pair: -pair["counts"])
    items = pa.array([pair["values"] for pair in counts[:NUM_ITEMS]])
    kept = pc.and_(
        pc.is_in(bought["item_id"], value_set=items),
        pc.is_in(bought["user_id"], value_set=pa.array(users)),
    )
    bought = bought.filter(kept)
    pq.write_table(bought, folder / "purchases.parquet")
    catalogue = pq.read_table(EXAMPLE / "items.parquet")
    pq.write_table(
        catalogue.filter(pc.is_in(catalogue["item_id"], value_set=items)), folder / "items.parquet"
    )
    tree = yaml.safe_load((EXAMPLE / "rove.yaml").read_text("utf-8"))
    tree["data"]["catalogue"]["path"] = str(folder / "items.parquet")
    tree["data"]["interactions"]["path"] = str(folder / "purchases.parquet")
    tree["store"]["url"] = f"sqlite:///{folder / 'ledger'}"
    tree["releases"]["path"] = str(folder / "releases")
    tree["encoder"]["max_tokens"] = 32
    tree["training"].update(text_factors=8, learned_factors=8, max_sweeps=5)
    tree["serving"].update(port=free_port(), shards=NUM_SHARDS, max_body_bytes=2_000_000)
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    names = [str(user) for user in bought["user_id"].unique()]
    return path, names, [str(item) for item in items.to_pylist()]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The small shop, served."""
    folder = tmp_path_factory.mktemp("shop")
    path, users, items = write_shop(folder)
    for arguments in (
        ("training.factorise", str(path), "--no-report"),
        ("rove", "load", str(path)),
    ):
        done = command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    config = Config.load(path)
    log = folder / "serve.log"
    process = start_server(path, log)
    http = httpx.Client(base_url=f"http://127.0.0.1:{config.serving.port}", timeout=30.0)
    try:
        wait_ready(http, process, log)
        yield Server(
            config_path=path,
            config=config,
            process=process,
            log=log,
            http=http,
            users=users,
            items=items,
        )
    finally:
        http.close()
        status = stop(process, signal.SIGTERM)
    assert status == 0, log.read_text()
