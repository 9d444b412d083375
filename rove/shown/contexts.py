"""The context of a request as numbers: its own numbers and words, and the text the encoder read.

Numbers are standardised and cut at `LIMIT` deviations; a short word under a key is an indicator
column `key=word`; longer ones, and a context that is a text, are read by the encoder. Columns are
those that occur often enough to learn from; what is missing or new counts as average.

Shapes: n contexts, N columns, E embedding, R = N + E.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from rove.errors import InvalidInput, shown
from rove.events import Context
from rove.mixed.contexts import LIMIT, MAX_COMPONENTS, ContextScale

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

MAX_COLUMNS = 128
MAX_WORD = 64
"""Characters; longer values are texts."""
LEAST_SHARE = 0.01
"""Of the contexts have to have a column."""
SLOT = "slot"
"""The column of an item's place in its slate: lower ones are looked at less."""


def text_of(context: Context | None) -> str | None:
    """Return the text of a context that the encoder has to read, if there is any."""
    if context is None or isinstance(context, str):
        return context or None
    texts = [value for value in context.values() if isinstance(value, str)]
    return "\n".join(text for text in texts if len(text) > MAX_WORD) or None


def check_context(context: Context | None) -> None:
    """Raise `InvalidInput` for numbers that are none."""
    if isinstance(context, dict):
        for key, value in context.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(
                    f"context {shown(key)} must be a finite number, got {value}; leave it out",
                    field="context",
                )


def values_of(context: Context | None, slot: int | None) -> dict[str, float]:
    """Return the named numbers of a context for an item in a slot, or wherever it will be."""
    values: dict[str, float] = {} if slot is None else {SLOT: math.log1p(slot)}
    if isinstance(context, dict):
        for key, value in context.items():
            if isinstance(value, str):
                if len(value) <= MAX_WORD:
                    values[f"{key}={value}"] = 1.0
            elif value is not None:
                values[key] = float(value)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReader:
    """From contexts to rows (n, R)."""

    columns: tuple[str, ...]
    mean_N: Array
    deviation_N: Array
    text_size: int
    """E; 0 if no context has a text."""

    @property
    def size(self) -> int:
        """R."""
        return len(self.columns) + self.text_size

    @classmethod
    def fit(
        cls,
        values_n: Sequence[dict[str, float]],
        text_size: int,
        max_columns: int = MAX_COLUMNS,
    ) -> Self:
        """Choose the columns that occur often enough and vary."""
        counts = Counter(name for values in values_n for name in values)
        least = max(2.0, LEAST_SHARE * len(values_n))
        often = [name for name, count in counts.most_common() if count >= least]
        table_nN = _table(values_n, often)
        indicator = np.array(["=" in name for name in often], bool)
        # A word that is absent is absent; a number that is absent is not known.
        table_nN[:, indicator] = np.nan_to_num(table_nN[:, indicator])
        if len(values_n) == 0:
            return cls(columns=(), mean_N=np.zeros(0), deviation_N=np.zeros(0), text_size=text_size)
        mean_N, deviation_N = np.nanmean(table_nN, 0), np.nanstd(table_nN, 0)
        varies = np.flatnonzero(deviation_N > 1e-9)[:max_columns]
        return cls(
            columns=tuple(often[n] for n in varies.tolist()),
            mean_N=mean_N[varies],
            deviation_N=deviation_N[varies],
            text_size=text_size,
        )

    def __call__(
        self, values_n: Sequence[dict[str, float]], vectors_n: Sequence[Vectors | None]
    ) -> Vectors:
        """Return rows (n, R): standardised numbers, then the texts' vectors."""
        row_nR = np.zeros((len(values_n), self.size), np.float32)
        num = len(self.columns)
        if num:
            table_nN = _table(values_n, self.columns)
            words = [n for n, name in enumerate(self.columns) if "=" in name]
            table_nN[:, words] = np.nan_to_num(table_nN[:, words])
            scaled_nN = np.nan_to_num((table_nN - self.mean_N) / self.deviation_N)
            row_nR[:, :num] = np.clip(scaled_nN, -LIMIT, LIMIT)
        if self.text_size:
            for row, vector in zip(row_nR, vectors_n, strict=True):
                if vector is not None and len(vector) == self.text_size:
                    row[num:] = vector
        return row_nR

    def scale(self, row_nR: Vectors) -> ContextScale:
        """Return what makes the numbers, and the texts, mean square 1 together."""
        num, mean_R = len(self.columns), np.zeros(self.size)
        parts = [np.eye(num) / np.sqrt(max(num, 1))] if num else []
        if self.text_size:
            text_nE = row_nR[:, num:].astype(np.float64)
            mean_R[num:] = text_nE.mean(0)
            text_nE -= mean_R[num:]
            size = min(MAX_COMPONENTS, max(1, len(row_nR) // 8), self.text_size)
            values, vectors = np.linalg.eigh(text_nE.T @ text_nE / max(1, len(row_nR)))
            parts.append(vectors[:, ::-1][:, :size] / np.sqrt(max(values.sum(), 1e-12)))
        project_RQ = np.zeros((self.size, sum(part.shape[1] for part in parts)))
        row = column = 0
        for part in parts:
            project_RQ[row : row + len(part), column : column + part.shape[1]] = part
            row, column = row + len(part), column + part.shape[1]
        root = np.sqrt(max(len(parts), 1))
        return ContextScale(mean_R=mean_R, project_RQ=project_RQ, scale=np.array(root))


def _table(values_n: Sequence[dict[str, float]], names: Sequence[str]) -> Array:
    missing = float("nan")
    rows = [[values.get(name, missing) for name in names] for values in values_n]
    return np.array(rows, np.float64).reshape(len(values_n), len(names))
