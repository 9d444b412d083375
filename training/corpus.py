"""Texts from files to token rows at rest, by Ray Data, file by file and row group by row group.

- A `Source` is a row group of a Parquet file or another file; each becomes one file of token rows,
  so the result is the same however many workers there are. Nothing larger than a source is held.
- A text belongs to the held-out part by its hash: the same text is never on both sides.
- Longer texts than `max_tokens` are cut into several rows.

    rove.tables               files of rows
    rove.pretraining.stream   token rows at rest
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import ray.data
from tokenizers import Tokenizer

from rove.columns import as_text
from rove.config import Config, DataSection, Format, TextSource
from rove.errors import ConfigError, DataError
from rove.pretraining import stream
from rove.pretraining.stream import Part
from rove.readers import ITEM_FIELDS
from rove.tables import Columns, list_files, read_tables

_TOGETHER = 1024  # texts that are tokenised in one call
_LINES = ".txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Texts that are read in one go."""

    path: str
    kind: Literal["catalogue", "texts", "lines"]
    format: Format | None
    group: int | None
    """Row group of a Parquet file."""
    names: dict[str, str]
    size_bytes: int
    modified_ns: int

    def columns(self) -> Columns:
        """Return what to read."""
        if self.kind == "catalogue":
            return Columns(
                section="data.catalogue",
                fields=ITEM_FIELDS,
                required=("item_id",),
                names=self.names,
            )
        return Columns(
            section="pretrain.texts", fields=("text",), required=("text",), names=self.names
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was tokenised."""

    num_texts: int
    num_rows: int
    num_tokens: int
    num_held_out: int
    num_cut: int
    num_empty: int

    def lines(self) -> list[str]:
        """Return the summary for a terminal."""
        lines = [
            f"{self.num_texts:,} texts, {self.num_tokens:,} tokens in {self.num_rows:,} rows; "
            f"{self.num_held_out:,} rows held out"
        ]
        if self.num_cut:
            lines.append(f"  {self.num_cut:,} texts were too long and became several rows")
        if self.num_empty:
            lines.append(f"  left out {self.num_empty:,}: no text")
        return lines


def sources(config: Config) -> list[Source]:
    """List what there is to read; raise `ConfigError` where nothing is named."""
    if config.data is None and not config.pretrain.texts:
        raise ConfigError(
            "there is nothing to learn from; set data.catalogue or list files in pretrain.texts"
        )
    found = _catalogue_sources(config.data) if config.data else []
    for text in config.pretrain.texts:
        found += _text_sources(text)
    if not found:
        path = config.data.catalogue.path if config.data else config.pretrain.texts[0].path
        raise DataError(f"{path}: the files have no rows; there is nothing to learn from")
    return found


def key_of(found: Sequence[Source], tokenizer: str, max_tokens: int, holdout_share: float) -> str:
    """Return a digest of all that decides the token rows."""
    tree = [[asdict(one) for one in found], tokenizer, max_tokens, holdout_share]
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def read_texts(source: Source) -> Iterator[list[str]]:
    """Yield the texts of a source, some at a time; a missing one is empty."""
    path = Path(source.path)
    if source.kind == "lines":
        yield from _lines(path)
        return
    if source.group is not None:
        chosen = _choose(path, source.columns())
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(
                _TOGETHER, row_groups=[source.group], columns=list(chosen.values())
            ):
                table = pa.Table.from_batches([batch])
                yield _join(pa.table({k: table[v] for k, v in chosen.items()}), source)
        return
    for part in read_tables(path, source.format, source.columns()):
        for start in range(0, part.table.num_rows, _TOGETHER):
            yield _join(part.table.slice(start, _TOGETHER), source)


def all_texts(found: Sequence[Source]) -> Iterator[str]:
    """Stream all texts to this process, in the sources' order."""
    texts = _dataset(found).flat_map(_rows_of)
    for batch in texts.iter_batches(batch_size=_TOGETHER, batch_format="numpy"):
        yield from map(str, batch["text"])


def tokenise(
    found: Sequence[Source],
    tokenizer: str,
    filesystem: pa.fs.FileSystem,
    folder: str,
    *,
    max_tokens: int,
    holdout_share: float,
) -> Summary:
    """Write the token rows of all sources to `folder`; `tokenizer` is a tokenizer.json."""
    filesystem.create_dir(folder)
    write = partial(
        _write_source,
        tokenizer=tokenizer,
        filesystem=filesystem,
        folder=folder,
        max_tokens=max_tokens,
        holdout_share=holdout_share,
    )
    rows = _dataset(found).map(write).take_all()
    train = [Part(**json.loads(row["train"])) for row in rows]
    held_out = [Part(**json.loads(row["held_out"])) for row in rows]
    counts = [json.loads(row["counts"]) for row in rows]
    summary = Summary(
        num_rows=sum(part.num_texts for part in train + held_out),
        num_tokens=sum(part.num_tokens for part in train + held_out),
        num_held_out=sum(part.num_texts for part in held_out),
        **{name: sum(count[name] for count in counts) for name in counts[0]},
    )
    if not sum(part.num_texts for part in train):
        raise DataError(
            f"{found[0].path} and {len(found) - 1} other sources: no text to learn from among "
            f"{summary.num_texts + summary.num_empty:,} rows; check the columns, or add texts"
        )
    key = key_of(found, tokenizer, max_tokens, holdout_share)
    kept = [[part for part in parts if part.num_texts] for parts in (train, held_out)]
    stream.write_manifest(filesystem, folder, key, *kept)
    return summary


def _dataset(found: Sequence[Source]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True
    rows = [{"number": i, "source": json.dumps(asdict(one))} for i, one in enumerate(found)]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _rows_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for texts in read_texts(Source(**json.loads(row["source"]))):
        yield from ({"text": text} for text in texts)


def _write_source(
    row: dict[str, Any],
    tokenizer: str,
    filesystem: pa.fs.FileSystem,
    folder: str,
    max_tokens: int,
    holdout_share: float,
) -> dict[str, Any]:
    """Tokenise one source to two files; say what they hold."""
    number, source = row["number"], Source(**json.loads(row["source"]))
    backend = Tokenizer.from_str(tokenizer)
    counts = dict.fromkeys(("num_texts", "num_cut", "num_empty"), 0)
    parts = {}
    for name in ("train", "held_out"):
        rows = token_rows(source, backend, max_tokens, holdout_share, name == "held_out", counts)
        file = f"{name}-{number:06d}.parquet"
        parts[name] = json.dumps(asdict(stream.write_part(filesystem, folder, file, rows)))
    return {**parts, "counts": json.dumps(counts)}


def token_rows(
    source: Source,
    backend: Tokenizer,
    max_tokens: int,
    share: float,
    held_out: bool,
    counts: dict[str, int],
) -> Iterator[list[list[int]]]:
    """Yield the token rows of one side, and count; a source is read once for each side."""
    backend.no_padding()
    backend.enable_truncation(max_tokens)
    num_special = backend.num_special_tokens_to_add(False)
    for texts in read_texts(source):
        chosen = [text for text in texts if text.strip() and _is_held_out(text, share) == held_out]
        counts["num_texts"] += len(chosen)
        if not held_out:
            counts["num_empty"] += sum(not text.strip() for text in texts)
        rows = []
        for encoding in backend.encode_batch(chosen):
            pieces = [encoding, *encoding.overflowing]
            counts["num_cut"] += len(pieces) > 1
            rows += [piece.ids for piece in pieces if len(piece.ids) > num_special]
        yield rows


def _is_held_out(text: str, share: float) -> bool:
    return zlib.crc32(text.encode("utf-8", "replace")) < share * 2**32


def _join(table: pa.Table, source: Source) -> list[str]:
    """Return one text a row: the non-empty fields below each other."""
    columns = []
    for name in table.column_names:
        if name == "tags":
            cells = [_tags(cell) for cell in table[name].to_pylist()]
        elif name == "item_id":
            continue
        else:
            cells = as_text(table[name], f"{source.path}: {name}").to_pylist()
        columns.append([(cell or "").strip() for cell in cells])
    return ["\n".join(filter(None, cells)) for cells in zip(*columns, strict=True)]


def _tags(cell: Any) -> str:
    return ", ".join(map(str, cell)) if isinstance(cell, list) else str(cell or "")


def _lines(path: Path) -> Iterator[list[str]]:
    waiting: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            waiting.append(line.rstrip("\n"))
            if len(waiting) == _TOGETHER:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _choose(path: Path, columns: Columns) -> dict[str, str]:
    chosen = columns.choose(path, pq.read_schema(path).names)
    if set(chosen) == {"item_id"}:
        raise DataError(
            f"{path}: no column with text; set data.catalogue.columns.title or .description to "
            "the column that says what an item is"
        )
    return chosen


def _catalogue_sources(data: DataSection) -> list[Source]:
    one = data.catalogue
    return [
        source
        for path in list_files(one.path, one.format)
        for source in _split(path, "catalogue", one.format, one.columns)
    ]


def _text_sources(text: TextSource) -> list[Source]:
    if text.path.is_dir():
        paths = sorted(text.path.rglob(f"*{_LINES}")) or list_files(text.path, None)
    else:
        paths = list_files(text.path, None)
    return [
        source
        for path in paths
        for source in _split(
            path, "lines" if path.suffix == _LINES else "texts", None, {"text": text.column}
        )
    ]


def _split(path: Path, kind: Any, format: Format | None, names: dict[str, str]) -> list[Source]:
    """Return the sources of one file, and refuse at once what can be seen to be unusable."""
    stat = path.stat()
    groups: list[int | None] = [None]
    if path.suffix in (".parquet", ".pq") or format == "parquet":
        try:
            metadata = pq.read_metadata(path)
            numbers = range(metadata.num_row_groups)
            groups = [i for i in numbers if metadata.row_group(i).num_rows]
        except (pa.ArrowException, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{path}: cannot be read as parquet: {reason}") from None
    found = [
        Source(
            path=str(path.resolve()),
            kind=kind,
            format=format,
            group=group,
            names=names,
            size_bytes=stat.st_size,
            modified_ns=stat.st_mtime_ns,
        )
        for group in groups
    ]
    if groups != [None] and found:
        _choose(path, found[0].columns())
    return found
