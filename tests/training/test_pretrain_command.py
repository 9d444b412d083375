"""`python -m training.pretrain` on real local Ray clusters: whole, killed, spread, and refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from training import checkpoint
from training.storage import Storage

WORDS = "red blue lamp vase cup tea pot for two of a set box tin card heart".split()
COMMAND_S = 120.0
pytestmark = pytest.mark.ray


def write_config(folder: Path, **settings: Any) -> Path:
    """A catalogue of 600 short titles, and a run of a tiny model on it."""
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(600)]
    table = pa.table({"item_id": [str(i) for i in range(600)], "title": titles})
    pq.write_table(table, folder / "items.parquet", row_group_size=256)
    pretrain = {
        "path": str(folder / "run"),
        "start": "scratch",
        "scratch": {"layers": 1, "hidden": 32, "vocabulary": 100},
        "batch_tokens": 256,
        "epochs": 4,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "checkpoint_steps": 20,
        "holdout_share": 0.1,
        **settings,
    }
    data = {"catalogue": {"path": str(folder / "items.parquet")}}
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "data": data, "pretrain": pretrain}), "utf-8")
    return path


class Run:
    """The command in a process of its own, with a mark by which its workers are known."""

    def __init__(self, config: Path) -> None:
        self._mark = f"ROVE_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "training.pretrain", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, name: value, "OMP_NUM_THREADS": "1"},
        )

    def wait(self) -> tuple[int, str]:
        """Return the status and everything that was printed."""
        output, _ = self.process.communicate(timeout=COMMAND_S)
        return self.process.returncode, output

    def workers(self) -> list[int]:
        """Return the ids of the processes that train."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_worker = b"RayTrainWorker" in (folder / "cmdline").read_bytes()
                if is_worker and self._mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass  # ended meanwhile
        return found

    def wait_for_checkpoint(self, config: Path) -> None:
        """Return once Ray Train knows of a checkpoint."""
        storage = Storage.open(Config.load(config).pretrain.path)
        deadline = time.monotonic() + COMMAND_S
        while not storage.checkpoints("train"):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)


def losses(config: Path) -> list[float]:
    """Return the curve of the last checkpoint."""
    storage = Storage.open(Config.load(config).pretrain.path)
    folder = Path(storage.folder) / storage.checkpoints("train")[-1]
    return [step["loss"] for step in checkpoint.read(folder)[2]["curve"]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    config = write_config(tmp_path_factory.mktemp("unbroken"))
    status, output = Run(config).wait()
    assert status == 0, output
    assert "the encoder is in " in output.splitlines()[-1]
    return config


def test_a_run_ends_with_an_encoder_a_report_and_event_files(unbroken: Path) -> None:
    folder = unbroken.parent / "run"
    encoder = Encoder.load(EncoderSection(model=str(folder / "encoder")))
    assert encoder.encode(["a red lamp"]).shape == (1, 32)
    report = (folder / "report.md").read_text("utf-8")
    assert "| held-out loss, before -> after |" in report
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    curve = losses(unbroken)
    assert len(curve) > 50 and np.mean(curve[-10:]) < 0.9 * np.mean(curve[:10])
    assert Config.load(folder / "rove.yaml") == Config.load(unbroken)


def test_the_same_command_goes_on_where_a_killed_one_was(unbroken: Path, tmp_path: Path) -> None:
    """The curve and the weights are those of the run that nothing happened to, bit for bit."""
    config = write_config(tmp_path)
    first = Run(config)
    first.wait_for_checkpoint(config)
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    status, output = Run(config).wait()
    assert status == 0, output
    assert "going on from step " in output
    assert losses(config) == losses(unbroken)
    one, two = (
        path.parent / "run" / "encoder" / "model.safetensors" for path in (config, unbroken)
    )
    assert one.read_bytes() == two.read_bytes()


def test_a_killed_worker_is_replaced_and_the_curve_is_the_same(
    unbroken: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path)
    run = Run(config)
    run.wait_for_checkpoint(config)
    (worker,) = run.workers()
    os.kill(worker, signal.SIGKILL)
    status, output = run.wait()
    assert status == 0, output
    assert "workers were replaced; going on from step " in output
    assert losses(config) == losses(unbroken)


def test_two_workers_learn_the_same_with_ddp_and_with_fsdp(tmp_path: Path) -> None:
    curves = []
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path / strategy
        folder.mkdir()
        config = write_config(folder, num_workers=2, strategy=strategy, max_steps=12)
        status, output = Run(config).wait()
        assert status == 0, output
        curves.append(losses(config))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 9999}, "9999 workers with 1 CPUs each need 9999 CPUs, the cluster has "),
        ({"path": "/proc/none"}, "cannot be written: "),
        ({"texts": [{"path": "none.csv"}]}, "none.csv: no such file or folder"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    status, output = Run(write_config(tmp_path, **settings)).wait()
    assert status == 2
    assert re.search(f"^training.pretrain: .*{re.escape(message)}", output.splitlines()[-1])
    assert "Traceback" not in output


def test_items_without_text_are_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, start="encoder")
    pq.write_table(
        pa.table({"item_id": ["1", "2"], "title": ["", " "]}), tmp_path / "items.parquet"
    )
    status, output = Run(config).wait()
    assert status == 2
    assert "no text to learn from among 2 rows" in output.splitlines()[-1]


def test_other_settings_and_a_damaged_checkpoint_are_one_line(unbroken: Path) -> None:
    tree = yaml.safe_load(unbroken.read_text("utf-8"))
    tree["pretrain"]["learning_rate"] = 0.5
    other = unbroken.parent / "other.yaml"
    other.write_text(yaml.safe_dump(tree), "utf-8")
    status, output = Run(other).wait()
    assert status == 2
    assert "pretrain.learning_rate was 0.003, now 0.5" in output.splitlines()[-1]
    storage = Storage.open(unbroken.parent / "run")
    weights = Path(storage.folder) / storage.checkpoints("train")[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, output = Run(unbroken).wait()
    assert status == 2
    assert "the checkpoint is damaged: " in output.splitlines()[-1]
