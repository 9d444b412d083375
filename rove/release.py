"""A release: a folder, immutable once written, with all that serving needs.

    release.yaml        schema version, id, encoder, sizes, metrics, the ledger's watermark
    model.safetensors   parameters of the reward model, the items' features and embeddings
    items.parquet       the catalogue as it was
    retrieval.faiss     of a large catalogue, the index for `rove.retrieval`
    encoder/            the language model

and beside the releases `current`, which names the one in service (`rove.release_pointer`).

- Tensors are memory-mapped: the shards of one node share their pages, and opening reads no data.
- A release appears under its name only when it is complete.
- Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rove.catalogue import Item
from rove.errors import ReleaseError, StoreUnavailable, shown
from rove.item_means import ItemMeans
from rove.learning import Learned
from rove.model import ItemFeatures, RewardModel
from rove.release_pointer import current as current
from rove.release_pointer import promote as promote
from rove.release_pointer import sync_to_disk
from rove.retrieval import (
    EXACT_ITEMS,
    MOST_READ,
    MaxProductIndex,
    is_installed,
    item_vectors,
    sample_queries,
)
from rove.shown.model import ShownModel

SCHEMA_VERSION = 1
NUM_INTERACTIONS = "num_interactions"
NUM_TRIALS = "num_trials"
REFIT_OF = "refit_of"
SETTLED_S = "settled_s"
ADAPTED_NDCG, FROZEN_NDCG = "validation_ndcg_at_10_adapted", "validation_ndcg_at_10_frozen"
"""Keys of a release's metrics that others read."""
_INDEX = "retrieval.faiss"
_INDEX_BYTES = "retrieval_bytes"
_SHOWN = "shown"
logger = logging.getLogger(__name__)
_DTYPES = {"F32": "<f4", "F64": "<f8", "BOOL": "|b1"}
_ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("category", pa.string()),
        ("tags", pa.list_(pa.string())),
    ]
)
_KEYS = (
    "schema_version",
    "id",
    "created_at",
    "encoder",
    "as_of_s",
    "watermark",
    "metrics",
    "parameters",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """An open release."""

    folder: Path
    id: str
    created_at: str
    encoder: str
    """Digest of the language model that made the embeddings (`rove.encoder.Encoder.name`)."""
    as_of_s: float
    """Time of the latest interaction it was learnt from."""
    watermark: dict[int, int]
    """Per shard, the number of the latest interaction it was learnt from; empty if from files."""
    metrics: dict[str, Any]
    model: RewardModel
    items: ItemFeatures
    embeddings_JE: npt.NDArray[np.float32]
    sums_J: npt.NDArray[np.float64]
    """Decayed sums of rewards per item at `as_of_s`."""
    catalogue: pa.Table
    shown: ShownModel | None = None
    """What was learnt from trials, where `feedback` is `shown`."""
    retrieval_path: Path | None = None
    """Of a large catalogue, the index for `rove.retrieval`."""

    @property
    def settled_s(self) -> float:
        """When what had expired counts in it, unanswered slots too; for implicit feedback."""
        return float(self.metrics.get(SETTLED_S, self.as_of_s))

    @property
    def encoder_folder(self) -> Path:
        """Where the language model is."""
        return self.folder / "encoder"

    def item(self, row: int) -> Item:
        """Return the item of a row."""
        return Item(**self.catalogue.slice(row, 1).to_pylist()[0])

    @classmethod
    def open(cls, folder: Path) -> Release:
        """Open a release; `ReleaseError` says what is wrong with it."""
        described = _described(folder)
        tensors = memory_mapped(folder / "model.safetensors")
        try:
            catalogue = pq.read_table(folder / "items.parquet", schema=_ITEM_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise ReleaseError(f"{folder / 'items.parquet'}: cannot be read: {error}") from None
        parameters = described["parameters"]
        lacking = [
            name
            for name in [*parameters, *(f"items.{name}" for name in _ITEM_TENSORS)]
            if name not in tensors
        ]
        if lacking:
            raise ReleaseError(
                f"{folder / 'model.safetensors'} lacks {', '.join(lacking)}; learn the release anew"
            )
        of_items = {name: tensors[f"items.{name}"] for name in _ITEM_TENSORS}
        sizes = {len(catalogue), *(len(tensor) for tensor in of_items.values())}
        if len(sizes) != 1:
            raise ReleaseError(
                f"{folder}: its parts disagree about the number of items, got {sorted(sizes)}; "
                "learn the release anew"
            )
        return cls(
            folder=folder,
            retrieval_path=_checked_index(folder, described),
            id=described["id"],
            created_at=described["created_at"],
            encoder=described["encoder"],
            as_of_s=described["as_of_s"],
            watermark=described["watermark"],
            metrics=described["metrics"],
            model=RewardModel.from_tensors({name: tensors[name] for name in parameters}),
            items=ItemFeatures(
                features_JD=of_items["features"],
                promise_J=of_items["promise"],
                trained_J=of_items["trained"],
            ),
            embeddings_JE=of_items["embeddings"],
            sums_J=of_items["sums"],
            catalogue=catalogue,
            shown=_shown(folder, described.get(_SHOWN), tensors, len(catalogue)),
        )


_ITEM_TENSORS = ("features", "promise", "trained", "embeddings", "sums")


def write(
    releases: Path,
    learned: Learned,
    items: Sequence[Item],
    embeddings_JE: npt.NDArray[np.float32],
    *,
    encoder: str,
    encoder_folder: Path,
    metrics: Mapping[str, Any],
    watermark: Mapping[int, int] | None = None,
    shown: ShownModel | None = None,
    exact_items: int = EXACT_ITEMS,
    most_read: float = MOST_READ,
) -> Path:
    """Write a release into the folder `releases` and return its own folder; it is not promoted.

    A catalogue of more than `exact_items` items gets an index for `rove.retrieval`, if sample users
    find their best items in at most `most_read` of its lists, and where faiss is
    installed.
    """
    parameters = learned.model.tensors()
    tensors: dict[str, npt.NDArray[Any]] = {
        **parameters,
        "items.features": learned.items.features_JD,
        "items.promise": learned.items.promise_J,
        "items.trained": learned.items.trained_J,
        "items.embeddings": np.asarray(embeddings_JE, np.float32),
        "items.sums": learned.sums_J,
    }
    if shown is not None:
        tensors |= shown.tensors()
    now = datetime.now(UTC)
    # With microseconds: equal models get ids of their own, and ids are in order of time.
    release_id = f"{now:%Y%m%dT%H%M%S%f}-{_digest(tensors)}"
    described = {
        "schema_version": SCHEMA_VERSION,
        "id": release_id,
        "created_at": now.isoformat(timespec="seconds"),
        "encoder": encoder,
        "num_items": len(items),
        "num_factors": learned.model.num_factors,
        "as_of_s": learned.as_of_s,
        "watermark": dict(watermark or {}),
        "metrics": {**learned.calibration, **metrics},
        "parameters": sorted(parameters),
    }
    if shown is not None:
        described[_SHOWN] = shown.described()
    draft = releases / f".draft-{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        save_file(
            {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()},
            draft / "model.safetensors",
        )
        pq.write_table(_table(items), draft / "items.parquet")
        if len(items) > exact_items:
            described[_INDEX_BYTES] = _write_index(draft / _INDEX, learned, most_read)
        _link_folder(encoder_folder, draft / "encoder")
        (draft / "release.yaml").write_text(yaml.safe_dump(described, sort_keys=False), "utf-8")
        for path in sorted(draft.rglob("*")):
            sync_to_disk(path)
        draft.rename(releases / release_id)
        sync_to_disk(releases)
    except (OSError, SafetensorError) as error:
        raise StoreUnavailable(f"{releases}: the release cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return releases / release_id


def prune(releases: Path, keep: int) -> list[str]:
    """Remove all but the latest `keep` refits, never the one in service; return their ids.

    Releases that were not made by a refit stay.
    """
    in_service = current(releases).name
    refits = [
        folder
        for folder in sorted(releases.glob("[0-9]*"))
        if folder.name != in_service and REFIT_OF in _described(folder)["metrics"]
    ]
    old = refits[: max(0, len(refits) - keep)]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in old]


def described(releases: Path) -> list[dict[str, Any]]:
    """Return what each release's `release.yaml` says, the newest first; damaged ones are left out.

    See the keys there: id, created_at, encoder, num_items, metrics and others.
    """
    found = []
    for folder in sorted(releases.glob("[0-9]*"), reverse=True):
        try:
            found.append(_described(folder))
        except ReleaseError as error:
            logger.warning("left out: %s", error.detail)
    return found


def latest(releases: Path) -> Release:
    """Open the release in service."""
    return Release.open(current(releases))


def prior_of(folder: Path | None) -> ShownModel | None:
    """Return what a release has learnt of what was shown, to begin another service with."""
    if folder is None:
        return None
    model = Release.open(folder).shown
    if model is None:
        raise ReleaseError(
            f"{folder}: it has not learnt from what was shown, so it has no prior to give; "
            "set training.prior to a release of a service with feedback: shown"
        )
    return model


def memory_mapped(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a safetensors file as read-only views of its pages.

    Format: 8 bytes of header length (little endian), a JSON header with dtype, shape and the
    offsets of each tensor, then the data (github.com/huggingface/safetensors). The library's own
    numpy reader copies; these views do not.
    """
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > path.stat().st_size:
                raise ReleaseError(f"{path}: the header is longer than the file; it was cut off")
            header = json.loads(file.read(header_size))
        pages = np.memmap(path, np.uint8, "r", offset=8 + header_size).view(np.ndarray)
        header.pop("__metadata__", None)
        return {
            name: pages[slice(*entry["data_offsets"])]
            .view(_DTYPES[entry["dtype"]])
            .reshape(entry["shape"])
            for name, entry in header.items()
        }
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ReleaseError(f"{path}: not a complete safetensors file: {error}") from None


def _write_index(path: Path, learned: Learned, most_read: float) -> int:
    """Write the index for `rove.retrieval` and return its size; nothing and 0 if it is no use."""
    if not is_installed():
        logger.warning(
            "%d items and no faiss: the release gets no index, so every item is scored for every "
            "request; pip install 'rove[retrieval]' and learn the release anew",
            len(learned.sums_J),
        )
        return 0
    means = ItemMeans(
        sums_J=learned.sums_J,
        promise_J=learned.items.promise_J,
        as_of_s=learned.as_of_s,
        half_life_s=learned.model.item_half_life_s,
        pseudo_count=learned.model.pseudo_count,
    )
    x_JC = item_vectors(learned.model, learned.items, means)
    index = MaxProductIndex.build(x_JC)
    queries = sample_queries(learned.model, learned.items, np.random.default_rng(0))
    recall = index.tune(x_JC, queries)
    logger.info(
        "the index finds %.4f of the best items of sample users in %.1f %% of its lists",
        recall,
        100.0 * index.share_read,
    )
    if index.share_read > most_read:
        logger.warning(
            "to find the best of these items the index has to read %.0f %% of its lists, which is "
            "no faster than scoring every item; the release gets no index",
            100.0 * index.share_read,
        )
        return 0
    index.write(path)
    return path.stat().st_size


def _shown(
    folder: Path,
    described: dict[str, Any] | None,
    tensors: dict[str, npt.NDArray[Any]],
    num_items: int,
) -> ShownModel | None:
    if described is None:
        return None
    try:
        model = ShownModel.from_tensors(described, tensors)
    except (KeyError, TypeError) as error:
        raise ReleaseError(
            f"{folder}: its model of what was shown is not complete ({error}); learn it anew"
        ) from None
    if len(model.mean_JP) != num_items:
        raise ReleaseError(
            f"{folder}: its model of what was shown has {len(model.mean_JP)} items, the catalogue "
            f"{num_items}; learn the release anew"
        )
    return model


def _checked_index(folder: Path, described: Mapping[str, Any]) -> Path | None:
    """Return the path of the index, if the release has one.

    Its pages are read when they are needed: one that was cut off would end the process then.
    """
    size_bytes = described.get(_INDEX_BYTES, 0)
    if not size_bytes:
        return None
    path = folder / _INDEX
    found_bytes = path.stat().st_size if path.is_file() else 0
    if found_bytes != size_bytes:
        raise ReleaseError(
            f"{path}: {found_bytes} bytes, written were {size_bytes}; learn the release anew"
        )
    return path


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "release.yaml"
    try:
        described = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ReleaseError(f"{path}: cannot be read: {error}") from None
    version = described.get("schema_version") if isinstance(described, dict) else None
    if version != SCHEMA_VERSION:
        raise ReleaseError(
            f"{path}: schema version {shown(version)}, this Rove reads {SCHEMA_VERSION}; "
            "learn the release anew with python -m training.factorise CONFIG"
        )
    lacking = [key for key in _KEYS if key not in described]
    if lacking:
        raise ReleaseError(f"{path} lacks {', '.join(lacking)}; learn the release anew")
    return dict(described)


def _table(items: Sequence[Item]) -> pa.Table:
    columns = {
        field.name: pa.array([getattr(item, field.name) for item in items], field.type)
        for field in _ITEM_SCHEMA
    }
    return pa.table(columns, schema=_ITEM_SCHEMA)


def _digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.asarray(tensors[name]).tobytes())
    return digest.hexdigest()[:8]


def _link_folder(source: Path, target: Path) -> None:
    """Copy a folder; files become links to the same data where the file system allows it."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
