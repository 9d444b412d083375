"""`rove demo` from end to end, on a slice of the example shop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from rove.demo.results import FROZEN, LEARNING
from rove.demo.rivals import ALS, BLEND, EASE, LIVE_POPULARITY, POPULARITY, RANDOM
from tests.colours import write_encoder

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "shop"
NUM_USERS = 150
NUM_ITEMS = 300
NUM_INVOICES = 40

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def small_shop(folder: Path) -> Path:
    """Write the most frequent items as bought by some customers, and its configuration."""
    bought = pq.read_table(EXAMPLE / "purchases.parquet")
    users = np.random.default_rng(0).permutation(np.unique(bought["user_id"]))[:NUM_USERS]
    frequent = pc.value_counts(bought["item_id"]).to_pylist()
    frequent.sort(key=lambda pair: -pair["counts"])
    items = pa.array([pair["values"] for pair in frequent[:NUM_ITEMS]])
    kept = pc.and_(
        pc.is_in(bought["item_id"], value_set=items),
        pc.is_in(bought["user_id"], value_set=pa.array(users)),
    )
    pq.write_table(bought.filter(kept), folder / "purchases.parquet")
    catalogue = pq.read_table(EXAMPLE / "items.parquet")
    catalogue = catalogue.filter(pc.is_in(catalogue["item_id"], value_set=items))
    pq.write_table(catalogue, folder / "items.parquet")
    tree = yaml.safe_load((EXAMPLE / "rove.yaml").read_text("utf-8"))
    tree["data"]["catalogue"]["path"] = str(folder / "items.parquet")
    tree["data"]["interactions"]["path"] = str(folder / "purchases.parquet")
    tree["serving"].update(port=free_port(), shards=2)
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def with_tiny_encoder(config: Path) -> Path:
    """Let a random BERT of 16 dimensions read the shop, which takes a second."""
    write_encoder(config.parent / "bert")
    tree = yaml.safe_load(config.read_text("utf-8"))
    tree["encoder"].update(model=str(config.parent / "bert"), max_tokens=32)
    tree["training"].update(text_factors=4, max_sweeps=3)
    tree["adapt"].update(layers=1, rank=2)
    config.write_text(yaml.safe_dump(tree), "utf-8")
    return config


def demo(folder: Path, config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rove", "demo", "--config", str(config)]
    return subprocess.run(
        [*command, "--folder", str(folder / "run"), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_demo_ends_with_a_table_of_every_recommender(tmp_path: Path) -> None:
    config = small_shop(tmp_path)
    figures = tmp_path / "figures.json"
    done = demo(tmp_path, config, "--invoices", str(NUM_INVOICES), "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(figures.read_text())
    names = [RANDOM, POPULARITY, LIVE_POPULARITY, ALS, EASE, BLEND, FROZEN, LEARNING]
    assert [row["name"] for row in results["rows"]] == names
    for row in results["rows"]:
        assert row["name"] in done.stdout
        assert 0 <= row["precision"]["low"] <= row["precision"]["mean"] <= row["precision"]["high"]
    check_counts(results)
    assert Path(results["plot"]).read_bytes().startswith(b"\x89PNG")
    assert not listens(yaml.safe_load(config.read_text())["serving"]["port"])


def check_counts(results: dict[str, Any]) -> None:
    """Every invoice is one rank; every line is acknowledged once."""
    assert results["num_invoices"] == results["http"]["rank"]["num_calls"] == NUM_INVOICES
    assert 0 < results["num_requests"] <= NUM_INVOICES
    assert results["http"]["outcomes"].keys() == {"accepted"}


def test_a_kept_server_answers_until_it_is_stopped(tmp_path: Path) -> None:
    config = with_tiny_encoder(small_shop(tmp_path))
    done = demo(tmp_path, config, "--invoices", "5", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"API and docs: (\S+)/docs\s+stop the server: kill (\d+)", done.stdout)
    assert found is not None, done.stdout
    url, pid = found[1], int(found[2])
    try:
        assert httpx.get(f"{url}/openapi.json", timeout=30).status_code == 200
        answer = httpx.post(f"{url}/v1/rank", json={"user_id": "new", "k": 3}, timeout=30)
        assert (answer.status_code, len(answer.json()["slots"])) == (201, 3)
        taken = demo(tmp_path, config)
        assert taken.returncode == 2
        assert "something listens at 127.0.0.1:" in taken.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    port = int(url.rsplit(":", 1)[1])
    deadline = time.monotonic() + 60
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(port)
