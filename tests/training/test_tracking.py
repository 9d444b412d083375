"""A whole run's parameters and figures, read back from every tracker; none uses the network."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from rove.config import TrackingSection
from tests.colours import config_of, write_data, write_encoder
from training.adapt_job import run
from training.following import Follower
from training.news import News

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray's own settings, when it reads them; and MLflow's tables.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The way to the network, for whoever asks for one: a socket that notes it and does not
    answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.lower(), address)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server


def wandb_records(folder: Path) -> list[Any]:
    """Return what W&B's offline run in the folder holds, as messages."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store = importlib.import_module("wandb.sdk.internal.datastore").DataStore()
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    store.open_for_scan(str(path))
    try:
        records = iter(store.scan_data, None)
        return [record.FromString(bytes(data)) for data in records]
    finally:
        store.close()


def check_wandb(folder: Path) -> None:
    records = wandb_records(folder)
    (begun,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    settings = {one.key: json.loads(one.value_json) for one in begun.config.update}
    assert (begun.project, settings["method"], settings["rank"]) == ("colours", "houlsby", 2)
    rows = [
        {item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in records
        if one.WhichOneof("record_type") == "history"
    ]
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert all(row["train/tokens_per_s"] > 0 for row in steps)
    assert [row["epoch/epoch"] for row in rows if "epoch/epoch" in row] == [0, 1]
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [0]


def check_mlflow(uri: str) -> None:
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert (found.data.params["method"], found.data.params["rank"]) == ("houlsby", "2")
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert [one.step for one in losses] == list(range(1, len(losses) + 1))
    assert found.data.metrics["train/peak_memory_mb"] > 100
    assert found.data.metrics["train/padding"] == 0.0
    epochs = client.get_metric_history(found.info.run_id, "epoch/served_ndcg_at_10")
    assert len(epochs) == 2


def test_an_adaptation_is_logged_to_every_tracker_without_a_network(
    tmp_path: Path, cluster: None, proxy: socket.socket
) -> None:
    """One epoch, and the figures before it; `proxy` was never asked."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow'}"
    tracking = {"wandb_project": "colours", "wandb_mode": "offline", "mlflow_uri": uri}
    config = config_of(tmp_path, tmp_path, method="houlsby", epochs=1, tracking=tracking)
    run(config, from_ledger=False, with_report=False)
    assert list((tmp_path / "adapt" / "tensorboard").glob("events.out.tfevents.*"))
    check_wandb(tmp_path / "adapt")
    check_mlflow(uri)
    with pytest.raises(BlockingIOError, match=os.strerror(11)):
        proxy.accept()


def test_a_run_goes_on_without_a_tracker_that_fails(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow's table of figures is gone: a line says so, and the run does not fail."""
    news: Any = ray.remote(num_cpus=0)(News).remote()
    follower = Follower(
        news,
        title="adapting",
        name="tiny",
        folder=tmp_path,
        tracking=TrackingSection(mlflow_uri=f"sqlite:///{tmp_path / 'mlflow'}"),
        settings={"seed": 0},
        start_step=0,
    )
    step = {"loss": 2.0, "num_tokens": 90.0, "padding": 0.1, "seconds": 0.5}
    with follower:
        with sqlite3.connect(tmp_path / "mlflow") as database:
            database.execute("DROP TABLE metrics")
        database.close()
        messages = [
            {"kind": "start", "step": 0, "num_steps": 1, "words": "on cpu", "facts": {}},
            {"kind": "step", "step": 1, "figures": step, "memory_mb": 12.0},
        ]
        ray.get(news.add.remote(messages))
    said = capsys.readouterr().out
    assert "adapting: 1 of 1 steps, loss 2.000, 180 tokens/s, 0:00 left" in said
    assert "MLflow takes no more figures: " in said
    assert (follower.facts["num_tokens"], follower.facts["num_places"]) == (90.0, 100.0)
