"""Killed workers and a killed driver: the run goes on from its last checkpoint, as if unbroken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.colours import tree, write_data, write_encoder
from tests.commands import Command
from training.cluster import RUN
from training.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Start = Callable[..., Command]


def command(start: Start, world: Path, out: Path) -> Command:
    """The job that writes to `out`."""
    out.mkdir(exist_ok=True)
    settings = tree(world, out, epochs=6, patience=6)
    (out / "rove.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    return start("training.adapt", str(out / "rove.yaml"), "--no-report")


def curve(out: Path) -> list[dict[str, float]]:
    """Return the figures of the epochs that do not depend on the clock."""
    epochs = json.loads((out / "adapt" / "curve.json").read_text("utf-8"))
    return [{k: v for k, v in epoch.items() if k != "duration_s"} for epoch in epochs]


def test_a_killed_driver_and_a_killed_worker_end_with_the_curve_of_an_unbroken_run(
    start: Start, tmp_path: Path
) -> None:
    """The driver is killed, the same command goes on, then its worker is killed in an epoch."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path, num_users=800)
    status, output = command(start, tmp_path, tmp_path / "unbroken").wait()
    assert status == 0, output
    broken = tmp_path / "broken"
    first = command(start, tmp_path, broken)
    storage = Storage.open(broken / "adapt")
    first.until(lambda: len(storage.checkpoints(RUN)) >= 1)
    first.kill()
    known = storage.checkpoints(RUN)
    second = command(start, tmp_path, broken)
    second.until(lambda: storage.checkpoints(RUN)[-1] > known[-1])
    second.kill_worker()
    status, output = second.wait()
    assert status == 0, output
    assert "going on with the run that is there" in output
    replaced = re.search(r"workers were replaced; going on from step ([\d,]+)", output)
    assert replaced is not None, output
    total = re.search(r"([\d,]+) steps on cpu", output)
    assert total is not None, output
    at, steps = (int(found[1].replace(",", "")) for found in (replaced, total))
    assert at in [epoch * steps // 6 for epoch in range(2, 6)]
    assert curve(broken) == curve(tmp_path / "unbroken")
    assert [epoch["epoch"] for epoch in curve(broken)] == list(range(1, 7))
