"""The job on a tiny BERT and a small made-up shop: a release whose encoder is base and adapter."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rove.catalogue import Item
from rove.config import EncoderSection
from rove.encoder import Encoder
from rove.errors import ConfigError, RoveError
from rove.ledger.load import load_history
from rove.readers import read_interactions
from rove.release import latest
from rove.rewards import RewardMap
from tests.colours import config_of, tree, write_data, write_encoder
from tests.commands import Command
from training.adapt import main
from training.adapt_data import prepare, read
from training.adapt_job import run
from training.cluster import RUN
from training.storage import Storage

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder and data."""
    folder = tmp_path_factory.mktemp("world")
    write_encoder(folder / "bert")
    write_data(folder)
    return folder


def arguments(world: Path, out: Path, **adapt: Any) -> list[str]:
    """Return the command's, for a run that writes to `out`."""
    (out / "rove.yaml").write_text(yaml.safe_dump(tree(world, out, **adapt)), "utf-8")
    return [str(out / "rove.yaml"), "--no-report"]


def refusal(arguments: list[str], capsys: Capture) -> str:
    """Return the line that the command ends with."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("training.adapt: ")]
    assert len(lines) == 1 and "Traceback" not in said
    return lines[0]


def curve(out: Path) -> list[dict[str, float]]:
    """Return the figures of the epochs that do not depend on the clock."""
    epochs = json.loads((out / "adapt" / "curve.json").read_text("utf-8"))
    return [{k: v for k, v in epoch.items() if k != "duration_s"} for epoch in epochs]


@pytest.mark.ray
def test_the_job_ends_with_a_release_whose_encoder_is_base_and_adapter(
    world: Path, tmp_path: Path, cluster: None, capsys: Capture
) -> None:
    config = config_of(world, tmp_path, num_workers=2)
    folder = run(config, from_ledger=False, with_report=False)
    release = latest(config.releases.path)
    assert release.folder == folder
    encoder = Encoder.load(
        EncoderSection(model=str(release.encoder_folder), max_tokens=16, dtype="float32")
    )
    assert encoder.name == release.encoder != Encoder.load(config.encoder).name
    np.testing.assert_allclose(
        encoder.encode([release.item(0).text])[0], release.embeddings_JE[0], atol=1e-5
    )
    epochs = curve(tmp_path)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert all(np.isfinite(list(epoch.values())).all() for epoch in epochs)
    report = (tmp_path / "adapt" / "report.md").read_text("utf-8")
    for name in ("NDCG@10 of a release, before -> after", "items' tokens/s", "memory of a worker"):
        assert name in report
    (events,) = (tmp_path / "adapt" / "tensorboard").iterdir()
    for tag in ("train/loss", "train/tokens_per_s", "epoch/validation_ndcg_at_10"):
        assert tag.encode() in events.read_bytes()
    said = capsys.readouterr().out
    assert re.search(r"adapting: \d+ of \d+ steps, loss .* tokens/s, .* left", said)
    assert re.search(r"^epoch 0: .*\n", said, re.M) and re.search(r"^epoch 2: .*\n", said, re.M)


def test_propensities_weigh_what_was_rarely_shown(world: Path, tmp_path: Path) -> None:
    """Shown with .5 and with .01: weights 2 and, at most, 10; by itself: 1."""
    items = [Item(item_id=name, title=name) for name in ("a", "b", "c")]
    table = pa.table(
        {
            "user_id": ["u", "u", "u", "v"],
            "item_id": ["a", "b", "c", "a"],
            "reward": [1.0, 1.0, 1.0, 1.0],
            "timestamp": [0.0, 1.0, 2.0, 1e6],
            "event_id": ["e", "f", None, None],
            "session": [None, None, None, None],
        }
    )
    prepared = prepare(
        config_of(world, tmp_path), items, [table], {("e", "a"): 0.5, ("f", "b"): 0.01}
    )
    assert prepared.weights.tolist() == [2.0, 10.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 5}, "adapt.layers is 5, the encoder has 2; lower it"),
        ({"start": "nowhere"}, "nowhere: not a readable adapter: "),
        (
            {"path": "/proc/nothing/here"},
            "'/proc/nothing/here' (adapt.path, .storage) cannot be writ",
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoveError, match=re.escape(message)):
        run(config_of(world, tmp_path, **changes), from_ledger=False, with_report=False)


def test_a_folder_of_another_run_is_refused(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapt"
    path.mkdir()
    (path / "run.json").write_text('{"identity": "another"}')
    with pytest.raises(ConfigError, match=re.escape("holds a run of other data or settings")):
        run(config_of(world, tmp_path), from_ledger=False, with_report=False)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_workers": 5},
            "5 workers with 1 CPUs each need 5 CPUs, the cluster has 4; lower adapt.num_workers",
        ),
        ({"gpus_per_worker": 1}, "adapt.gpus_per_worker is 1, but the cluster has 0 GPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    world: Path,
    tmp_path: Path,
    capsys: Capture,
    cluster: None,
    settings: dict[str, Any],
    message: str,
) -> None:
    assert message in refusal(arguments(world, tmp_path, **settings), capsys)


@pytest.mark.ray
def test_long_texts_are_cut_and_a_damaged_checkpoint_is_named(
    world: Path, tmp_path: Path, capsys: Capture, cluster: None
) -> None:
    """Texts of 10,000 tokens are no error; the run's checkpoint is then cut in half."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    table = pq.read_table(tmp_path / "items.parquet")
    titles = pa.array([f"{title} " * 3333 for title in table["title"].to_pylist()])
    pq.write_table(table.set_column(1, "title", titles), tmp_path / "items.parquet")
    run(config_of(tmp_path, tmp_path, epochs=1), from_ledger=False, with_report=False)
    assert "32 texts of 16 tokens or more are cut there" in capsys.readouterr().out
    storage = Storage.open(tmp_path / "adapt")
    tensors = Path(storage.folder) / storage.checkpoints(RUN)[-1] / "run" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    said = refusal(arguments(tmp_path, tmp_path, epochs=1), capsys)
    assert "the checkpoint is damaged: " in said


def test_the_ledger_gives_what_the_files_gave(world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path)
    assert config.data is not None and config.data.interactions is not None
    table, _ = read_interactions(config.data.interactions)
    rewards = RewardMap.from_config(config.rewards)
    load_history(config.store, 2, [table], rewards)
    of_files, of_ledger = (read(config, from_ledger=ledger) for ledger in (False, True))
    assert of_ledger.texts == of_files.texts
    np.testing.assert_array_equal(of_ledger.every.items, of_files.every.items)
    np.testing.assert_array_equal(of_ledger.weights, of_files.weights)
    assert len(of_ledger.past) == len(of_files.past) < len(of_files.every)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_and_a_killed_worker_end_with_the_curve_of_an_unbroken_run(
    world: Path, tmp_path: Path, start: Callable[..., Command], cluster: None
) -> None:
    """The driver is killed, the same command goes on, then its worker is killed in an epoch."""
    shutil.copytree(world / "bert", tmp_path / "bert")
    write_data(tmp_path, num_users=200)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    for out in (unbroken, broken):
        out.mkdir()
    assert main(arguments(tmp_path, unbroken, epochs=6, patience=6)) == 0
    command = ["training.adapt", *arguments(tmp_path, broken, epochs=6, patience=6)]
    first = start(*command)
    storage = Storage.open(broken / "adapt")
    first.until(lambda: len(storage.checkpoints(RUN)) >= 1)
    first.kill()
    known = storage.checkpoints(RUN)
    second = start(*command)
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
    assert curve(broken) == curve(unbroken)
    assert [epoch["epoch"] for epoch in curve(broken)] == list(range(1, 7))
