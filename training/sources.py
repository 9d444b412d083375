"""Which texts there are to learn from, and how they are read: the catalogue's and further files'.

A `Source` is a row group of a Parquet file or another file. Files are read some rows at a time, so
they need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rove.columns import as_text
from rove.config import Config, DataSection, Format, TextSource
from rove.errors import ConfigError, DataError
from rove.readers import ITEM_FIELDS
from rove.tables import Columns, list_files, read_blocks

_TOGETHER = 1024  # texts that are read together
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
    for part in read_blocks(path, source.format, source.columns()):
        for start in range(0, part.table.num_rows, _TOGETHER):
            yield _join(part.table.slice(start, _TOGETHER), source)


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
