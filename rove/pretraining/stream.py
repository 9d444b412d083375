"""The tokenised corpus at rest, and the endless sequence of batches that a seed makes of it.

- A corpus is a folder of Parquet files of token rows, local or on S3, named by `corpus.json`.
- Row groups are shuffled, then read in windows of some ten thousand texts, so a corpus need not fit
  into memory; texts are shuffled and sorted into batches within a window.
- The sequence is a function of the seed alone: it is numbered, and any worker can go on at any
  `Position`. Which worker takes which batch is the reader's choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from rove.errors import DataError
from rove.pretraining.batching import Ints, Texts, batches

MANIFEST = "corpus.json"
SCHEMA = pa.schema([("ids", pa.large_list(pa.int32())), ("length", pa.int32())])
ROWS_PER_GROUP = 4096
_GROUPS_PER_WINDOW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of token rows."""

    name: str
    num_groups: int
    num_texts: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The number of a batch: it is `batch` of the window `window` of an epoch."""

    epoch: int = 0
    window: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The files of token rows in one folder."""

    filesystem: pa.fs.FileSystem
    folder: str
    parts: tuple[Part, ...]

    @classmethod
    def open(cls, filesystem: pa.fs.FileSystem, folder: str, key: str) -> Corpus:
        """Read the list `key` (train, held_out) of the manifest."""
        manifest = read_manifest(filesystem, folder)
        if manifest is None:
            raise DataError(f"{folder}: no tokenised corpus; start the run anew in an empty folder")
        parts = tuple(Part(**part) for part in manifest[key])
        return cls(filesystem=filesystem, folder=folder, parts=parts)

    @property
    def num_texts(self) -> int:
        """Rows over all files."""
        return sum(part.num_texts for part in self.parts)

    def groups(self) -> list[tuple[int, int]]:
        """Return (file, row group) of everything."""
        return [(i, group) for i, part in enumerate(self.parts) for group in range(part.num_groups)]

    def read(self, groups: Sequence[tuple[int, int]]) -> Texts:
        """Return the token rows of some row groups, in their order."""
        columns = [self._group(file, group, "ids") for file, group in groups]
        ids = [np.asarray(column.flatten()) for column in columns]
        lengths = [np.diff(np.asarray(column.offsets)) for column in columns]
        starts_N1 = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        return Texts(ids=np.concatenate(ids), starts_N1=starts_N1.astype(np.int64))

    def lengths(self, groups: Sequence[tuple[int, int]]) -> Ints:
        """Return the number of tokens of each row, without reading the tokens."""
        columns = [np.asarray(self._group(file, group, "length")) for file, group in groups]
        return np.concatenate(columns).astype(np.int64)

    def _group(self, file: int, group: int, column: str) -> Any:
        path = f"{self.folder}/{self.parts[file].name}"
        with self.filesystem.open_input_file(path) as source:
            table = pq.ParquetFile(source).read_row_group(group, columns=[column])
        return table[column].combine_chunks()


class Stream:
    """Numbered batches over all epochs."""

    def __init__(self, corpus: Corpus, batch_tokens: int, seed: int) -> None:
        self._corpus = corpus
        self._batch_tokens = batch_tokens
        self._seed = seed

    def windows(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the row groups of each window of an epoch."""
        groups = self._corpus.groups()
        order = np.random.default_rng([self._seed, epoch]).permutation(len(groups))
        shuffled = [groups[i] for i in order]
        size = _GROUPS_PER_WINDOW
        return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]

    def num_batches(self) -> int:
        """Return the number of batches of the first epoch; others have about as many."""
        rng = np.random.default_rng(0)
        lengths = (self._corpus.lengths(window) for window in self.windows(0))
        return sum(len(batches(one, self._batch_tokens, rng)) for one in lengths)

    def read(self, start: Position) -> Iterator[tuple[Position, Texts, Ints]]:
        """Yield, for ever, a batch's number, its window and its rows there, from `start` on."""
        epoch, window, batch = start.epoch, start.window, start.batch
        while True:
            groups = self.windows(epoch)
            while window < len(groups):
                texts = self._corpus.read(groups[window])
                rng = np.random.default_rng([self._seed, epoch, window])
                for number, rows in enumerate(batches(texts.lengths_N, self._batch_tokens, rng)):
                    if number >= batch:
                        yield Position(epoch=epoch, window=window, batch=number), texts, rows
                window, batch = window + 1, 0
            epoch, window = epoch + 1, 0


def write_part(
    filesystem: pa.fs.FileSystem, folder: str, name: str, rows: Iterator[Sequence[Sequence[int]]]
) -> Part:
    """Write token rows to one file; `rows` are lists of them."""
    sizes: list[int] = []
    groups = 0
    with (
        filesystem.open_output_stream(f"{folder}/{name}") as sink,
        pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer,
    ):
        for some in _regroup(rows):
            lengths = [len(row) for row in some]
            columns = [pa.array(some, SCHEMA.field("ids").type), pa.array(lengths, pa.int32())]
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=ROWS_PER_GROUP)
            sizes.extend(lengths)
            groups += 1
    return Part(name=name, num_groups=groups, num_texts=len(sizes), num_tokens=sum(sizes))


def _regroup(rows: Iterator[Sequence[Sequence[int]]]) -> Iterator[list[Sequence[int]]]:
    """Yield lists of `ROWS_PER_GROUP` rows, the last one shorter."""
    waiting: list[Sequence[int]] = []
    for some in rows:
        waiting.extend(some)
        while len(waiting) >= ROWS_PER_GROUP:
            yield waiting[:ROWS_PER_GROUP]
            waiting = waiting[ROWS_PER_GROUP:]
    if waiting:
        yield waiting


def write_manifest(
    filesystem: pa.fs.FileSystem, folder: str, key: str, train: list[Part], held_out: list[Part]
) -> None:
    """Say that the corpus `key` is complete."""
    tree = {
        "key": key,
        "train": [asdict(part) for part in train],
        "held_out": [asdict(part) for part in held_out],
    }
    with filesystem.open_output_stream(f"{folder}/{MANIFEST}") as sink:
        sink.write(json.dumps(tree).encode())


def read_manifest(filesystem: pa.fs.FileSystem, folder: str) -> dict[str, Any] | None:
    """Return what `write_manifest` wrote; none where no corpus is complete."""
    path = f"{folder}/{MANIFEST}"
    if filesystem.get_file_info(path).type == pa.fs.FileType.NotFound:
        return None
    with filesystem.open_input_stream(path) as source:
        tree: dict[str, Any] = json.loads(source.read())
    return tree
