"""Tokens and checkpoints on S3: both commands, started again, and what is refused."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pyarrow.fs
import pytest
import yaml
from moto.server import ThreadedMotoServer

from rove.errors import ConfigError, RoveError
from tests.colours import config_of, tree, write_data, write_encoder
from training import adapt, pretrain
from training.cluster import RUN, train
from training.storage import Storage

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

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
    """The cluster; its nodes have the key and do not know the server."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("AWS_ENDPOINT_URL")
        request.getfixturevalue("cluster")


@pytest.fixture
def locked(s3: str) -> Iterator[Callable[[], None]]:
    """Let the server refuse every request, until the test ends."""

    def allow(num_requests: bytes) -> None:
        httpx.post(f"{s3}/moto-api/reset-auth", content=num_requests).raise_for_status()

    yield partial(allow, b"0")
    allow(b"inf")


def write_config(folder: Path) -> Path:
    """A tiny BERT and its shop, whose runs are in a bucket."""
    write_encoder(folder / "bert")
    write_data(folder)
    settings = tree(folder, folder, storage="s3://bucket/adapt")
    settings["pretrain"] = {
        "path": str(folder / "pretrain"),
        "storage": "s3://bucket/pretrain",
        "max_tokens": 16,
        "batch_tokens": 256,
        "epochs": 1000,
        "max_steps": 60,
        "checkpoint_steps": 20,
        "dtype": "float32",
        "holdout_share": 0.1,
    }
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


@pytest.mark.ray
@pytest.mark.slow
def test_pretraining_goes_on_from_where_it_was_in_a_bucket(
    nodes: None, tmp_path: Path, capsys: Capture
) -> None:
    config = str(write_config(tmp_path))
    assert pretrain.main([config]) == 0
    assert "going on" not in capsys.readouterr().out
    storage = Storage.open("s3://bucket/pretrain")
    assert len(storage.checkpoints(RUN)) == 2
    kept = storage.filesystem.get_file_info(pyarrow.fs.FileSelector(f"{storage.folder}/{RUN}"))
    assert sum(one.base_name.startswith("checkpoint_2") for one in kept) == 2  # of three
    shutil.rmtree(tmp_path / "pretrain")
    assert pretrain.main([config]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^going on from step 60 \(s3://bucket/pretrain/train/", said, re.M)
    assert (tmp_path / "pretrain" / "encoder" / "model.safetensors").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_adapting_goes_on_from_where_it_was_in_a_bucket(
    nodes: None, tmp_path: Path, capsys: Capture
) -> None:
    options = [str(write_config(tmp_path)), "--no-report"]
    assert adapt.main(options) == 0
    assert "epoch 0:" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "adapt")
    assert adapt.main(options) == 0
    said = capsys.readouterr().out
    assert "s3://bucket/adapt: going on with the run that is there" in said
    assert "epoch 0:" not in said
    curve = json.loads((tmp_path / "adapt" / "curve.json").read_text("utf-8"))
    assert [epoch["epoch"] for epoch in curve] == [1, 2]


@pytest.mark.ray
def test_a_node_that_may_not_write_is_one_line(
    nodes: None, locked: Callable[[], None], tmp_path: Path
) -> None:
    """The command may, and Ray Train's controller may not any more."""
    storage = Storage.open("s3://bucket/locked")
    locked()
    with pytest.raises(RoveError, match=re.escape("Ray Train's controller failed: ")) as caught:
        train(print, {}, config_of(tmp_path, tmp_path).adapt, storage, num_to_keep=1)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith("its node must be able to write to s3://bucket/locked")


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


def test_a_key_that_may_not_write_is_refused(s3: str, locked: Callable[[], None]) -> None:
    locked()
    with pytest.raises(ConfigError, match=re.escape("cannot be written: ")):
        Storage.open("s3://bucket/run")


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
