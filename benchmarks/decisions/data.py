"""Where the environments find their files, and the embeddings of their texts.

- A data set is the first folder whose name starts with its prefix, or the one that is set.
- Embeddings are computed once per list of texts and kept, named by a digest of the texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.decisions.interface import Floats, Vectors

SHOP = Path(__file__).parent.parent.parent / "examples" / "shop"


class MissingData(Exception):
    """An environment's files are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where files are read and kept."""

    data: Path | None
    """A folder with one folder per data set; without it only the shop can be played."""
    cache: Path
    """Embeddings are kept here."""
    folders: tuple[tuple[str, str], ...] = ()
    """Environment -> name of its folder under `data`, where it is not the first that fits."""

    def folder(self, environment: str, prefix: str) -> Path:
        """Return the folder of an environment's data set; `prefix` is how its name starts."""
        if self.data is None:
            raise MissingData(f"{environment}: no data folder given (--data FOLDER)")
        chosen = dict(self.folders).get(environment)
        found = sorted(path for path in self.data.glob(chosen or f"{prefix}*") if path.is_dir())
        if not found:
            raise MissingData(f"{environment}: no folder {chosen or prefix + '*'} in {self.data}")
        return found[0]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of the texts by the default encoder, (len(texts), E)."""
        digest = hashlib.sha256("\0".join(["minilm", *texts]).encode("utf-8", "replace"))
        path = self.cache / f"{digest.hexdigest()[:24]}.npy"
        if not path.exists():
            # Here, not above: torch takes seconds to import, in every process that plays.
            from rove.config import EncoderSection
            from rove.encoder import Encoder

            vectors = Encoder.load(EncoderSection(dtype="float32")).encode(texts)
            self.cache.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{id(vectors)}.tmp.npy")
            np.save(unfinished, vectors)
            unfinished.replace(path)
        loaded: Vectors = np.load(path)
        return loaded


def read(path: Path) -> pa.Table:
    """Return a Parquet file, or say which is missing."""
    if not path.exists():
        raise MissingData(f"no file {path}")
    return pq.read_table(path)


def texts_of(table: pa.Table, column: str) -> list[str]:
    """Return a column as texts, empty where it is null."""
    return [text or "" for text in table[column].to_pylist()]


def columns_of(table: pa.Table, names: Sequence[str]) -> Floats:
    """Return numeric columns side by side, (rows, len(names))."""
    return np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])
