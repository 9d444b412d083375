"""Bad input to `python -m training.adapt`: one clear line and a status, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rove.adaptation.fitting import build
from tests.colours import config_of, prepared_of, tree, write_data, write_encoder
from training.adapt import main
from training.adapt_job import run
from training.cluster import RUN
from training.storage import Storage

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with an encoder and data."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    return tmp_path


def refusal(world: Path, capsys: Capture, **adapt: Any) -> str:
    """Return the line that the command ends with."""
    path = world / "rove.yaml"
    path.write_text(yaml.safe_dump(tree(world, world, **adapt)), "utf-8")
    assert main([str(path), "--no-report"]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("training.adapt: ")]
    assert len(lines) == 1 and "Traceback" not in said
    return lines[0]


def rewrite(path: Path, columns: dict[str, list[Any]]) -> None:
    schema = pa.schema([(name, pa.string()) for name in columns if name != "timestamp"])
    arrays = {
        n: pa.array(v, pa.string() if n in schema.names else None) for n, v in columns.items()
    }
    pq.write_table(pa.table(arrays), path)


def test_an_empty_catalogue(world: Path, capsys: Capture) -> None:
    rewrite(world / "items.parquet", {"item_id": [], "title": []})
    assert "items.parquet: no usable item" in refusal(world, capsys)


def test_items_without_text(world: Path, capsys: Capture) -> None:
    write_data(world, with_text=False)
    assert "no usable item" in refusal(world, capsys)


def test_one_user(world: Path, capsys: Capture) -> None:
    write_data(world, num_users=1)
    assert refusal(world, capsys).endswith(
        "all interactions are of one user; adapting needs at least two"
    )


def test_interactions_with_unknown_items_only(world: Path, capsys: Capture) -> None:
    rewrite(
        world / "history.parquet",
        {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1.0, 2.0]},
    )
    assert "there is no positive interaction to adapt to" in refusal(world, capsys)


def test_an_adapter_for_another_base(world: Path, capsys: Capture) -> None:
    config = config_of(world, world, method="houlsby")
    texts, _, _, popularity = prepared_of(config)
    build(config, texts, popularity, 10).write_adapter(world / "other")
    card = json.loads((world / "other" / "adapter.json").read_text("utf-8"))
    (world / "other" / "adapter.json").write_text(json.dumps({**card, "base": "0" * 64}), "utf-8")
    said = refusal(world, capsys, method="houlsby", start=str(world / "other"))
    assert f"an adapter for the encoder {'0' * 64}, but encoder.model is " in said


def test_a_storage_that_cannot_be_written(world: Path, capsys: Capture) -> None:
    said = refusal(world, capsys, storage="/proc/none")
    assert "'/proc/none' (adapt.path, .storage) cannot be written: " in said


@pytest.mark.ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 3}, "3 workers with 1 CPUs each need 3 CPUs, the cluster has 2"),
        ({"gpus_per_worker": 1}, "adapt.gpus_per_worker is 1, but the cluster has 0 GPUs"),
    ],
)
def test_more_than_the_cluster_has(
    world: Path, capsys: Capture, cluster: None, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal(world, capsys, **settings)


@pytest.mark.ray
def test_long_texts_are_cut_and_a_damaged_checkpoint_is_named(
    world: Path, capsys: Capture, cluster: None
) -> None:
    """Texts of 10,000 tokens are no error; the run's checkpoint is then cut in half."""
    table = pq.read_table(world / "items.parquet")
    titles = [f"{title} " * 3333 for title in table["title"].to_pylist()]
    rewrite(world / "items.parquet", {"item_id": table["item_id"].to_pylist(), "title": titles})
    run(config_of(world, world, epochs=1), from_ledger=False, with_report=False)
    assert "32 texts of 16 tokens or more are cut there" in capsys.readouterr().out
    storage = Storage.open(world / "adapt")
    tensors = Path(storage.folder) / storage.checkpoints(RUN)[-1] / "run" / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    assert "the checkpoint is damaged: " in refusal(world, capsys, epochs=1)


def test_settings_may_follow_options(world: Path, capsys: Capture) -> None:
    path = world / "rove.yaml"
    path.write_text(yaml.safe_dump(tree(world, world)), "utf-8")
    assert main([str(path), "--no-report", "adapt.epochs=0"]) == 2
    assert "adapt.epochs" in capsys.readouterr().err
