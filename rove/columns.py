"""Columns of any type as ids, texts, numbers and times; whole columns at once.

Every function takes an Arrow column and returns an array of the same length n in which null stands
for an absent value. A cell that is there but unusable becomes NaN where numbers are asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rove.errors import DataError
from rove.events import MAX_ID_LENGTH

Mask: TypeAlias = npt.NDArray[np.bool_]

_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"


def as_ids(column: Any, name: str) -> Any:
    """Return a string array: 17850.0 becomes "17850" (a whole number), "" becomes null."""
    values = _flat(column)
    if pa.types.is_floating(values.type):
        values = _whole_numbers(values)
    text = as_text(values, name)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def as_text(column: Any, name: str) -> Any:
    """Return a string array."""
    values = _flat(column)
    if pa.types.is_nested(values.type):
        raise DataError(f"{name}: expected text or numbers, got {values.type}")
    return _cast(values, pa.string(), name)


def as_numbers(column: Any, name: str) -> Any:
    """Return a float64 array; text that is no number, and "nan" and "inf", become NaN."""
    values = _flat(column)
    if not _is_text(values.type):
        return _cast(values, pa.float64(), name)
    text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    missing = pc.equal(text, "")
    number = pc.match_substring_regex(text, _NUMBER)
    parsed = pc.cast(pc.if_else(number, text, "nan"), pa.float64())
    return pc.if_else(missing, pa.scalar(None, pa.float64()), parsed)


def as_seconds(column: Any, name: str) -> Any:
    """Return unix seconds as a float64 array, from seconds, times, or ISO 8601 text.

    A time without a zone is taken as UTC.
    """
    values = _flat(column)
    if pa.types.is_temporal(values.type):
        micros = pc.cast(_cast(values, pa.timestamp("us"), name), pa.int64())
        return pc.divide(pc.cast(micros, pa.float64()), 1e6)
    seconds = as_numbers(values, name)
    if not _is_text(values.type):
        return seconds
    text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    unread = pc.fill_null(pc.is_nan(seconds), False)
    if pc.any(unread).as_py():
        seconds = pc.replace_with_mask(seconds, unread, _iso_seconds(pc.filter(text, unread)))
    return seconds


def is_missing(values: Any) -> Mask:
    """Return where `values` is null."""
    return as_mask(pc.is_null(values))


def is_not_finite(numbers: Any) -> Mask:
    """Return where a number is there, but NaN or infinite."""
    return as_mask(pc.invert(pc.is_finite(numbers)))


def is_bad_id(ids: Any) -> Mask:
    """Return where an id is too long or has control characters, as in `rove.events.check_id`."""
    too_long = pc.greater(pc.utf8_length(ids), MAX_ID_LENGTH)
    return as_mask(pc.or_(too_long, pc.invert(pc.utf8_is_printable(ids))))


def as_mask(booleans: Any) -> Mask:
    """Return a boolean Arrow array as numpy's, with null as False."""
    mask: Mask = pc.fill_null(booleans, False).to_numpy(zero_copy_only=False)
    return mask


def _flat(column: Any) -> Any:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):  # a column over 2 GB of text stays in chunks
        values = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in values.chunks])
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _whole_numbers(values: Any) -> Any:
    """Return floats as integers when all are whole (an integer column that once held a null)."""
    finite = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    whole = pc.equal(finite, pc.trunc(finite))
    exact = pc.less(pc.abs(finite), 2.0**53)
    if pc.all(pc.and_(whole, exact)).as_py() is False:
        return finite
    return pc.cast(finite, pa.int64())


def _is_text(kind: Any) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in kinds)


def _cast(values: Any, kind: Any, name: str) -> Any:
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{name}: a column of {values.type} cannot be read as {kind}") from None


def _iso_seconds(text: Any) -> Any:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            micros = pc.cast(pc.cast(text, kind), pa.int64())
        except pa.ArrowInvalid:
            continue
        return pc.divide(pc.cast(micros, pa.float64()), 1e6)
    # Some with and some without a zone, or some that are no time: each distinct text by itself.
    distinct = text.dictionary_encode()
    seconds = pa.array([_iso_or_nan(value) for value in distinct.dictionary.to_pylist()])
    return pc.take(pc.cast(seconds, pa.float64()), distinct.indices)


def _iso_or_nan(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return float("nan")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
