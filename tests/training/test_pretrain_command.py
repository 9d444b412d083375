"""`python -m training.pretrain` on local Ray clusters: whole, killed, spread, and refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from tests.commands import Command
from training import checkpoint
from training.cluster import RUN
from training.pretrain import main
from training.storage import Storage

WORDS = "red blue lamp vase cup tea pot for two of a set box tin card heart".split()
pytestmark = [
    pytest.mark.ray,
    # Ray's own settings, when it reads them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

Capture = pytest.CaptureFixture[str]


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


def losses(config: Path) -> list[float]:
    """Return the curve of the last checkpoint."""
    storage = Storage.open(Config.load(config).pretrain.path)
    folder = Path(storage.folder) / storage.checkpoints(RUN)[-1]
    return [step["loss"] for step in checkpoint.read(folder)[2]["curve"]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A run that nothing happened to."""
    config = write_config(tmp_path_factory.mktemp("unbroken"))
    assert main([str(config)]) == 0
    return config


def refusal(config: Path, capsys: Capture) -> str:
    """Return the line that the command ends with where it cannot run."""
    capsys.readouterr()
    assert main([str(config)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("training.pretrain: ") and said.count("\n") == 1
    return said


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


def test_a_killed_driver_and_a_killed_worker_end_with_the_curve_of_an_unbroken_run(
    unbroken: Path, tmp_path: Path, start: Callable[..., Command]
) -> None:
    """The same command goes on where a killed one was, and replaces a worker that is killed: curve
    and weights are those of the run that nothing happened to, bit for bit."""
    config = write_config(tmp_path)
    storage = Storage.open(Config.load(config).pretrain.path)
    first = start("training.pretrain", str(config))
    first.until(lambda: len(storage.checkpoints(RUN)) >= 1)
    first.kill()
    known = storage.checkpoints(RUN)
    second = start("training.pretrain", str(config))
    second.until(lambda: storage.checkpoints(RUN)[-1] > known[-1])
    second.kill_worker()
    status, output = second.wait()
    assert status == 0, output
    assert re.search(r"^going on from step [1-9]", output, re.M)
    assert "workers were replaced; going on from step " in output
    assert "the encoder is in " in output.splitlines()[-1]
    assert losses(config) == losses(unbroken)
    one, two = (
        path.parent / "run" / "encoder" / "model.safetensors" for path in (config, unbroken)
    )
    assert one.read_bytes() == two.read_bytes()


def test_two_workers_learn_the_same_with_ddp_and_with_fsdp(tmp_path: Path, cluster: None) -> None:
    curves = []
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path / strategy
        folder.mkdir()
        config = write_config(folder, num_workers=2, strategy=strategy, max_steps=12)
        assert main([str(config)]) == 0
        curves.append(losses(config))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_workers": 9999},
            "9999 workers with 1 CPUs each need 9999 CPUs, the cluster has 2; ",
        ),
        ({"gpus_per_worker": 1}, "pretrain.gpus_per_worker is 1, but the cluster has 0 GPUs"),
        ({"path": "/proc/none"}, "'/proc/none' (pretrain.path, .storage) cannot be written: "),
        ({"storage": "/proc/none"}, "'/proc/none' (pretrain.path, .storage) cannot be written: "),
        ({"texts": [{"path": "none.csv"}]}, "none.csv: no such file or folder"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    tmp_path: Path, settings: dict[str, Any], message: str, cluster: None, capsys: Capture
) -> None:
    assert message in refusal(write_config(tmp_path, **settings), capsys)


def test_a_corpus_without_rows_and_items_without_text_are_one_line(
    tmp_path: Path, cluster: None, capsys: Capture
) -> None:
    config = write_config(tmp_path, start="encoder")
    for titles, message in (
        ([], "the files have no rows; there is nothing to learn from"),
        (["", " "], "no text to learn from among 2 rows"),
    ):
        ids = [str(row) for row in range(len(titles))]
        table = pa.table({"item_id": pa.array(ids, pa.string()), "title": pa.array(titles, "str")})
        pq.write_table(table, tmp_path / "items.parquet")
        assert message in refusal(config, capsys)


def test_texts_of_10_000_tokens_are_cut_and_counted(
    tmp_path: Path, cluster: None, capsys: Capture
) -> None:
    """Three of 10,000 words among 600 titles."""
    config = write_config(tmp_path, max_steps=3, holdout_share=0.0)
    words = np.random.default_rng(1).choice(WORDS, (3, 10_000))
    texts = pa.table({"text": [" ".join(row) for row in words]})
    pq.write_table(texts, tmp_path / "texts.parquet")
    path = tmp_path / "texts.parquet"
    assert main([str(config), f"pretrain.texts=[{{path: {path}, column: text}}]"]) == 0
    assert "3 texts were too long and became several rows" in capsys.readouterr().out


def test_other_settings_and_a_damaged_checkpoint_are_one_line(
    unbroken: Path, capsys: Capture
) -> None:
    tree = yaml.safe_load(unbroken.read_text("utf-8"))
    tree["pretrain"]["learning_rate"] = 0.5
    other = unbroken.parent / "other.yaml"
    other.write_text(yaml.safe_dump(tree), "utf-8")
    assert "pretrain.learning_rate was 0.003, now 0.5" in refusal(other, capsys)
    storage = Storage.open(unbroken.parent / "run")
    weights = Path(storage.folder) / storage.checkpoints(RUN)[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "the checkpoint is damaged: " in refusal(unbroken, capsys)
