"""Releases: what is opened is what was written; what is damaged is refused."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import rove
from rove.errors import NotFound, ReleaseError, StoreUnavailable
from rove.release import Release, current, latest, memory_mapped, promote, prune, write
from tests.worlds import ENCODER, NUM_ITEMS, Shop, embeddings, item, learned

ROOT = Path(rove.__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a release that is in service."""
    return tmp_path / "releases" / Shop(tmp_path).release()


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(message)):
        Release.open(folder)


def test_a_release_comes_back_as_it_was_written(folder: Path) -> None:
    release, made = Release.open(folder), learned()
    assert (release.id, release.encoder) == (folder.name, ENCODER)
    assert release.as_of_s == made.as_of_s and release.watermark == {}
    assert release.metrics == {**made.calibration, "planted": 1.0}
    assert np.array_equal(release.embeddings_JE, embeddings())
    assert np.array_equal(release.items.features_JD, made.items.features_JD)
    assert np.array_equal(release.items.trained_J, made.items.trained_J)
    assert np.array_equal(release.sums_J, made.sums_J)
    for name, tensor in made.model.tensors().items():
        assert np.array_equal(release.model.tensors()[name], tensor), name
    assert [release.item(row) for row in range(NUM_ITEMS)] == [item(n) for n in range(NUM_ITEMS)]
    assert (release.encoder_folder / "weights").read_bytes() == b"weights"


def test_tensors_are_read_only_views_of_the_file(folder: Path) -> None:
    release = Release.open(folder)
    assert not release.embeddings_JE.flags.owndata
    assert not release.embeddings_JE.flags.writeable
    assert release.items.features_JD.flags.aligned


def test_the_latest_is_the_one_in_service(tmp_path: Path, folder: Path) -> None:
    second = Shop(tmp_path).release()
    assert latest(folder.parent).id == current(folder.parent).name == second
    promote(folder.parent, folder.name)
    assert latest(folder.parent).id == folder.name


def test_nothing_unfinished_is_left_behind(folder: Path) -> None:
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "current"])


@pytest.mark.parametrize("release_id", ["unknown", "", "current", "../releases", "."])
def test_promoting_what_is_not_there_is_refused(folder: Path, release_id: str) -> None:
    with pytest.raises(NotFound, match=re.escape(f"there is no release '{release_id}' in")):
        promote(folder.parent, release_id)
    assert current(folder.parent) == folder


def test_a_pointer_that_cannot_be_swapped_is_reported(folder: Path) -> None:
    (folder.parent / "current").unlink()
    (folder.parent / "current" / "in the way").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match=re.escape("cannot promote a release: ")):
        promote(folder.parent, folder.name)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "current"]


def test_without_a_release_in_service_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=re.escape("run python -m training.factorise CONFIG")):
        latest(tmp_path)


def test_a_pointer_to_nothing_is_reported(folder: Path) -> None:
    (folder.parent / "current").write_text("gone")
    with pytest.raises(ReleaseError, match=re.escape("release.yaml: cannot be read")):
        latest(folder.parent)


def test_another_schema_version_is_refused(folder: Path) -> None:
    described = yaml.safe_load((folder / "release.yaml").read_text())
    (folder / "release.yaml").write_text(yaml.safe_dump({**described, "schema_version": 99}))
    refused(folder, "schema version 99, this Rove reads 1; learn the release anew")


@pytest.mark.parametrize("text", ["", "- a list", "just text"])
def test_a_description_without_a_version_is_refused(folder: Path, text: str) -> None:
    (folder / "release.yaml").write_text(text)
    refused(folder, "schema version None, this Rove reads 1")


def test_a_description_that_lacks_something_is_refused(folder: Path) -> None:
    described = yaml.safe_load((folder / "release.yaml").read_text())
    del described["encoder"]
    (folder / "release.yaml").write_text(yaml.safe_dump(described))
    refused(folder, "release.yaml lacks encoder; learn the release anew")


@pytest.mark.parametrize("name", ["release.yaml", "model.safetensors", "items.parquet"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"{name}: cannot be read")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.9, 0.999])
def test_tensors_that_were_cut_off_are_refused(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(folder, "model.safetensors: ")


def with_header(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


def test_a_tensor_that_is_missing_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    with_header(path, lambda header: {k: v for k, v in header.items() if k != "items.sums"})
    refused(folder, "lacks items.sums; learn the release anew")


@pytest.mark.parametrize("header", [[], {"a": 1}, {"a": {"dtype": "F32"}}, {"a": []}])
def test_a_header_that_describes_no_tensors_is_refused(folder: Path, header: object) -> None:
    with_header(folder / "model.safetensors", lambda _: header)
    refused(folder, "not a complete safetensors file")


def test_parts_of_different_sizes_are_refused(tmp_path: Path, folder: Path) -> None:
    items = [item(number) for number in range(NUM_ITEMS - 1)]
    written = write(
        folder.parent,
        learned(),
        items,
        embeddings(),
        encoder=ENCODER,
        encoder_folder=tmp_path / "encoder",
        metrics={},
    )
    refused(written, "its parts disagree about the number of items, got [59, 60]")


def test_a_catalogue_that_is_no_parquet_is_refused(folder: Path) -> None:
    (folder / "items.parquet").write_text("this is a letter")
    refused(folder, "items.parquet: cannot be read")


def test_every_kind_of_tensor_is_mapped(folder: Path) -> None:
    tensors = memory_mapped(folder / "model.safetensors")
    assert tensors["items.trained"].dtype == np.bool_
    assert tensors["items.features"].dtype == np.float32
    assert tensors["prior_map_FK"].shape == (6, 4)


def test_old_refits_are_removed_and_others_stay(tmp_path: Path, folder: Path) -> None:
    engine = Shop(tmp_path).engine()
    refits = [engine.refit() for _ in range(3)]
    assert len({folder.name, *refits}) == 4
    assert prune(folder.parent, 1) == refits[:1]
    left = {path.name for path in folder.parent.glob("[0-9]*")}
    assert left == {folder.name, *refits[1:]}


FULL_DISK = """
import resource, sys
from pathlib import Path
from rove.errors import StoreUnavailable
from tests.worlds import Shop
shop = Shop(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    shop.release()
except StoreUnavailable as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("num_bytes", [0, 1000, 8000])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "weights").write_bytes(b"weights")
    output = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, str(num_bytes)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "refused:" in output.stdout, output.stderr
    assert "the release cannot be written" in output.stdout
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "releases").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match=re.escape("the release cannot be written")):
        Shop(tmp_path).release()
