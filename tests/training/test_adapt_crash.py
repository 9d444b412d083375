"""Killed workers and a killed driver: the run goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.colours import tree, write_data, write_encoder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent


def started(folder: Path) -> subprocess.Popen[str]:
    """Run the job as a user would, in a process group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "training.adapt", str(folder / "rove.yaml"), "--no-report"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(job: subprocess.Popen[str], text: str) -> str:
    """Read the job's output up to the line with `text` and return that line."""
    assert job.stdout is not None
    seen = []
    for line in job.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"no {text!r} in:\n{''.join(seen)}")


def closed(job: subprocess.Popen[str]) -> int:
    """Wait for the end and return the status."""
    job.communicate(timeout=60)
    return job.returncode


def test_a_killed_worker_is_replaced_and_a_killed_driver_goes_on(tmp_path: Path) -> None:
    """The driver is killed after epoch 2, then a worker; each epoch is in the curve once."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path, num_users=200)
    settings = tree(tmp_path, tmp_path, epochs=6, patience=6)
    (tmp_path / "rove.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    job = started(tmp_path)
    until(job, "epoch 2: ")
    os.killpg(job.pid, signal.SIGKILL)
    closed(job)
    job = started(tmp_path)
    until(job, "going on with the run that is there")
    line = until(job, "epoch 4: ")
    found = re.search(r"pid=(\d+)", line)
    assert found is not None, line
    os.kill(int(found.group(1)), signal.SIGKILL)
    assert "is in service" in until(job, "is in service")
    assert closed(job) == 0
    curve = json.loads((tmp_path / "adapt" / "curve.json").read_text("utf-8"))
    assert [epoch["epoch"] for epoch in curve] == [1, 2, 3, 4, 5, 6]
