"""The job on a tiny BERT and a small made-up shop: a release whose encoder is base and adapter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from rove.catalogue import Item
from rove.config import EncoderSection
from rove.encoder import Encoder
from rove.errors import ConfigError, DataError, RoveError
from rove.ledger.load import load_history
from rove.readers import read_interactions
from rove.release import latest
from rove.rewards import RewardMap
from tests.colours import config_of, tree, write_data, write_encoder
from training.adapt import main
from training.adapt_data import prepare, read
from training.adapt_job import run

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder and data."""
    folder = tmp_path_factory.mktemp("world")
    write_encoder(folder / "bert")
    write_data(folder)
    return folder


@pytest.mark.ray
def test_the_job_ends_with_a_release_whose_encoder_is_base_and_adapter(
    world: Path, tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
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
    curve = json.loads((tmp_path / "adapt" / "curve.json").read_text())
    assert [epoch["epoch"] for epoch in curve] == list(range(1, len(curve) + 1))
    assert all(np.isfinite(list(epoch.values())).all() for epoch in curve)
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


def test_one_user_is_refused_in_one_line_with_a_status(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path, num_users=1)
    path = tmp_path / "rove.yaml"
    settings = tree(tmp_path, tmp_path)
    settings["encoder"]["model"] = str(world / "bert")
    path.write_text(yaml.safe_dump(settings), "utf-8")
    assert main([str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == ("training.adapt: all interactions are of one user; adapting needs at least two")


def test_items_without_text_are_refused(world: Path, tmp_path: Path) -> None:
    write_data(tmp_path, with_text=False)
    with pytest.raises(DataError, match=re.escape("no usable")):
        run(config_of(tmp_path, tmp_path), from_ledger=False, with_report=False)


def test_a_folder_of_another_run_is_refused(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapt"
    path.mkdir()
    (path / "run.json").write_text('{"identity": "another"}')
    with pytest.raises(ConfigError, match=re.escape("holds a run of other data or settings")):
        run(config_of(world, tmp_path), from_ledger=False, with_report=False)


@pytest.mark.ray
def test_more_workers_than_cpus_are_refused(world: Path, tmp_path: Path, cluster: None) -> None:
    needs = "3 workers with 1 CPUs each need 3 CPUs, the cluster has 2; lower adapt.num_workers"
    with pytest.raises(ConfigError, match=re.escape(needs)):
        run(config_of(world, tmp_path, num_workers=3), from_ledger=False, with_report=False)


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
