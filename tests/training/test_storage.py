"""Tokens and checkpoints on S3: both commands, stopped and started again, and what is refused."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow.fs
import pytest
import yaml
from moto.server import ThreadedMotoServer

from rove.errors import ConfigError
from tests.colours import tree, write_data, write_encoder
from tests.commands import Command
from training import adapt, pretrain
from training.cluster import RUN
from training.storage import Storage

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

Start = Callable[..., Command]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server that this process and those it starts take for theirs; its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    httpx.put(f"{endpoint}/bucket", timeout=60.0).raise_for_status()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def nodes(s3: str, request: pytest.FixtureRequest) -> None:
    """The cluster, started where the server is known."""
    request.getfixturevalue("cluster")


def write_config(folder: Path) -> Path:
    """A tiny BERT and its shop, whose runs are in a bucket."""
    write_encoder(folder / "bert")
    write_data(folder, num_users=200)
    settings = tree(folder, folder, epochs=4, patience=4, storage="s3://bucket/adapt")
    settings["pretrain"] = {
        "path": str(folder / "pretrain"),
        "storage": "s3://bucket/pretrain",
        "max_tokens": 16,
        "batch_tokens": 256,
        "epochs": 1000,
        "max_steps": 200,
        "checkpoint_steps": 20,
        "dtype": "float32",
        "holdout_share": 0.1,
    }
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def stopped_at_a_checkpoint(command: Command, address: str) -> Storage:
    """Kill the command once it has a checkpoint; return where it is."""
    storage = Storage.open(address)

    def has_one() -> bool:
        time.sleep(0.2)  # the server is this process
        return bool(storage.checkpoints(RUN))

    command.until(has_one)
    command.kill()
    return storage


@pytest.mark.ray
@pytest.mark.slow
def test_pretraining_goes_on_from_where_it_was_in_a_bucket(
    nodes: None, start: Start, tmp_path: Path, capsys: Capture
) -> None:
    config = str(write_config(tmp_path))
    storage = stopped_at_a_checkpoint(start("training.pretrain", config), "s3://bucket/pretrain")
    assert pretrain.main([config]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^going on from step [1-9]\d* \(s3://bucket/pretrain/train/", said, re.M)
    assert (tmp_path / "pretrain" / "encoder" / "model.safetensors").is_file()
    assert len(storage.checkpoints(RUN)) == 2
    kept = storage.filesystem.get_file_info(pyarrow.fs.FileSelector(f"{storage.folder}/{RUN}"))
    # Of ten; one more where the command was killed while it wrote.
    assert sum(one.base_name.startswith("checkpoint_2") for one in kept) in (2, 3)


@pytest.mark.ray
@pytest.mark.slow
def test_adapting_goes_on_from_where_it_was_in_a_bucket(
    nodes: None, start: Start, tmp_path: Path, capsys: Capture
) -> None:
    options = [str(write_config(tmp_path)), "--no-report"]
    stopped_at_a_checkpoint(start("training.adapt", *options), "s3://bucket/adapt")
    assert adapt.main(options) == 0
    said = capsys.readouterr().out
    assert "s3://bucket/adapt: going on with the run that is there" in said
    assert "epoch 0:" not in said and "epoch 4:" in said
    curve = json.loads((tmp_path / "adapt" / "curve.json").read_text("utf-8"))
    assert [epoch["epoch"] for epoch in curve] == [1, 2, 3, 4]


def test_a_storage_goes_to_workers_with_its_endpoint_and_without_its_key(s3: str) -> None:
    """What is pickled for them; the key comes from their own surroundings."""
    storage = Storage.open("s3://bucket/workers")
    _, (settings,) = storage.filesystem.__reduce__()
    assert settings["endpoint_override"] == s3
    assert settings["access_key"] is None and settings["secret_key"] is None
    storage.write_json("run.json", {"a": 1})
    assert storage.read_json("run.json") == {"a": 1}
    assert storage.read_json("none.json") is None
    assert storage.checkpoints(RUN) == []


@pytest.mark.parametrize(
    ("name", "main"),
    [("pretrain", pretrain.main), ("adapt", adapt.main)],
    ids=["pretrain", "adapt"],
)
def test_a_bucket_that_is_not_there_is_one_line(
    s3: str, tmp_path: Path, name: str, main: Callable[[list[str]], int], capsys: Capture
) -> None:
    config = write_config(tmp_path)
    capsys.readouterr()
    assert main([str(config), f"{name}.storage=s3://none/run"]) == 2
    assert capsys.readouterr().err == (
        f"training.{name}: 's3://none/run' ({name}.path, .storage) cannot be written: Bucket "
        "'none' not found; give a folder or an s3:// address with permission to write\n"
    )


def test_a_key_that_may_not_write_is_refused(s3: str) -> None:
    httpx.post(f"{s3}/moto-api/reset-auth", content=b"0").raise_for_status()
    try:
        with pytest.raises(ConfigError, match=re.escape("cannot be written: ")):
            Storage.open("s3://bucket/run")
    finally:
        httpx.post(f"{s3}/moto-api/reset-auth", content=b"inf").raise_for_status()


@pytest.mark.slow  # Arrow's client tries for 12 s
def test_a_server_that_does_not_answer_is_refused_in_seconds(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=re.escape("'s3://bucket/run' (pretrain.path, .storage)")):
        Storage.open("s3://bucket/run")


def test_the_latest_checkpoint_is_copied_from_a_bucket(s3: str) -> None:
    """The latest of the checkpoints that Ray Train's list names."""
    storage = Storage.open("s3://bucket/fetched")
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        storage.write_json(f"{RUN}/{name}/state.json", {"name": name})
    known = {"checkpoints": ["checkpoint_1", "checkpoint_2"]}
    storage.write_json(f"{RUN}/checkpoint_manager_snapshot.json", known)
    with storage.latest(RUN) as folder:
        assert folder is not None
        assert json.loads((folder / "state.json").read_text()) == {"name": "checkpoint_2"}
