"""Texts to token rows at rest, by Ray Data, source by source.

- Each source becomes one file of token rows, so the result is the same however many workers there
  are.
- A text belongs to the held-out part by its hash: the same text is never on both sides.
- Longer texts than `max_tokens` are cut into several rows.

    training.sources          texts
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
from typing import Any

import pyarrow as pa
import pyarrow.fs
import ray.data
from tokenizers import Tokenizer

from rove.errors import DataError
from rove.pretraining import stream
from rove.pretraining.stream import Part
from training.sources import Source, read_texts

_TOGETHER = 1024  # texts that come to this process together


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


def key_of(found: Sequence[Source], tokenizer: str, max_tokens: int, holdout_share: float) -> str:
    """Return a digest of all that decides the token rows."""
    tree = [[asdict(one) for one in found], tokenizer, max_tokens, holdout_share]
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


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
