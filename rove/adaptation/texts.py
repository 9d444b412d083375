"""The items' tokens, and what of them is hidden in training.

Hidden tokens are neither attended to nor pooled, so the lower layers' output, which is computed
once, serves every variant of a text. The first and the last token ([CLS], [SEP]) always stay.

Shapes: n texts, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_CHARACTERS_PER_TOKEN = 64  # as rove.encoder cuts
_TOKENIZE_TOGETHER = 1024  # texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The tokens of all items, one after the other."""

    ids: npt.NDArray[np.int32]
    starts: Ints
    """(items + 1,): where each item's tokens begin."""
    first_field: Ints
    """(items,): tokens of [CLS] and the first field."""
    pad_id: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Texts:
        """Tokenise the texts, whose fields are lines, and cut them to `max_tokens`."""
        ids: list[npt.NDArray[np.int32]] = []
        first_field: list[int] = []
        for start in range(0, len(texts), _TOKENIZE_TOGETHER):
            part = [
                text[: max_tokens * _CHARACTERS_PER_TOKEN].encode("utf-8", "replace").decode()
                for text in texts[start : start + _TOKENIZE_TOGETHER]
            ]
            encoded = tokenizer(
                part, truncation=True, max_length=max_tokens, return_offsets_mapping=True
            )
            for text, row, spans in zip(
                part, encoded["input_ids"], encoded["offset_mapping"], strict=True
            ):
                ids.append(np.asarray(row, np.int32))
                end = text.find("\n") if "\n" in text else len(text)
                first_field.append(1 + sum(0 < stop <= end for _, stop in spans))
        lengths = np.array([len(row) for row in ids], np.int64)
        return cls(
            ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
            starts=np.r_[0, np.cumsum(lengths)],
            first_field=np.array(first_field, np.int64),
            pad_id=int(tokenizer.pad_token_id or 0),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self, rows: Ints) -> Ints:
        """Return how many tokens the items have (n,)."""
        return self.starts[rows + 1] - self.starts[rows]

    def positions(self, rows: Ints) -> tuple[Ints, Mask]:
        """Return where in `ids` each item's tokens are (n, T), 0 past its end, and a mask."""
        lengths = self.lengths(rows)
        place = np.arange(lengths.max(initial=1))
        present = place < lengths[:, None]
        return np.where(present, self.starts[rows][:, None] + place, 0), present

    def padded(self, rows: Ints) -> tuple[Ints, Mask]:
        """Return the items' tokens (n, T) and a mask of what is no padding."""
        positions, present = self.positions(rows)
        return np.where(present, self.ids[positions].astype(np.int64), self.pad_id), present


def hide(
    texts: Texts,
    rows: Ints,
    present: Mask,
    rng: np.random.Generator,
    *,
    span_share: float,
    field_probability: float,
) -> Mask:
    """Return `present` (n, T) without one span of each text, of some all but the first field."""
    lengths = texts.lengths(rows)
    place = np.arange(present.shape[1])
    inner = np.maximum(lengths - 2, 0)
    span = np.floor(inner * span_share + rng.random(len(rows))).astype(np.int64)
    span = np.where(span_share > 0, np.minimum(span, inner // 2), 0)
    first = 1 + np.floor(rng.random(len(rows)) * (inner - span + 1)).astype(np.int64)
    in_span = (place >= first[:, None]) & (place < (first + span)[:, None])
    shorter = rng.random(len(rows)) < field_probability
    known = texts.first_field[rows]
    other_field = (place >= known[:, None]) & (place < (lengths - 1)[:, None])
    other_field &= (shorter & (known > 1))[:, None]
    cut_n1 = np.asarray(other_field.any(axis=1, keepdims=True))
    hidden: Mask = (cut_n1 & other_field) | (~cut_n1 & in_span)
    return np.asarray(present & ~hidden, bool)
