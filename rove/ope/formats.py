"""Logs of other systems: Open Bandit (Parquet, CSV), Vowpal Wabbit's text, and its DSJSON.

- Vowpal Wabbit minimises a label; the reward is minus that label.
- Actions are numbered from 0: by item id (Open Bandit), by place in the list of a decision
  (multi-line text and DSJSON), or by VW's own number less one (single-line text).
- The features are hashed context (the words before the actions), enough for `cross_fitted`.
- What a decision lacks is counted in the report; unlabelled examples are the most common.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rove.errors import DataError, NotFound, shown
from rove.ope.cleaning import Tally, clean
from rove.ope.log import Floats, Logged
from rove.readers import ReadReport

NUM_HASHED = 32
_NAMES = {
    "item_id": ("item_id",),
    "click": ("click", "reward"),
    "propensity_score": ("propensity_score", "action_prob", "pscore"),
}


@dataclass(slots=True)
class _Row:
    """One labelled decision of a text format; NaN for what is missing."""

    action: int
    reward: float
    propensity: float
    num_actions: int
    words: Sequence[str]
    logging: dict[int, float] | None = None


def read_open_bandit(path: str | Path, *, policy: str | None = None) -> tuple[Logged, ReadReport]:
    """Read an Open Bandit file (Saito et al. 2021), of one logging policy if it has several.

    Each row is a decision of its own; features are the hashed `user_feature_*` and the position.
    """
    table = _table(Path(path))
    if policy is not None and "policy" in table.column_names:
        found = pc.unique(table["policy"]).to_pylist()
        table = table.filter(pc.equal(table["policy"], policy))
        if table.num_rows == 0:
            raise DataError(
                f"{path} has no rows of the policy {policy!r}, got {shown(found)}; name one of them"
            )
    columns = {name: _numbers(table, name, path) for name in _NAMES}
    actions = columns["item_id"]
    action_N = np.where(np.isfinite(actions), actions, -1).astype(np.int64)
    texts = [table[c].to_pylist() for c in table.column_names if c.startswith("user_feature_")]
    if "position" in table.column_names:
        texts.append(table["position"].to_pylist())
    features = [[f"{i}={value}" for i, value in enumerate(row)] for row in zip(*texts, strict=True)]
    logged, _, report = clean(
        action_N=action_N,
        reward_N=columns["click"],
        propensity_N=columns["propensity_score"],
        num_actions=int(action_N.max(initial=0)) + 1,
        features_NF=hashed(features) if features else None,
        path=str(path),
    )
    return logged, report


def read_vw(
    path: str | Path,
    *,
    num_actions: int | None = None,
    reward_range: tuple[float, float] = (-1.0, 0.0),
) -> tuple[Logged, ReadReport]:
    """Read VW text: `action:label:probability | features`, or blocks of lines with one labelled.

    `reward_range` is that of minus the label.
    """
    tally = Tally(path=str(path))
    rows = list(_vw_rows(_lines(path), tally))
    return _assembled(rows, tally, num_actions, reward_range)


def read_dsjson(
    path: str | Path, *, reward_range: tuple[float, float] = (0.0, 1.0)
) -> tuple[Logged, ReadReport]:
    """Read DSJSON: one decision a line, with the probabilities of all its actions (`a`, `p`)."""
    tally = Tally(path=str(path))
    rows = list(_dsjson_rows(_lines(path), tally))
    return _assembled(rows, tally, None, reward_range)


def hashed(words_N: Sequence[Sequence[str]], size: int = NUM_HASHED) -> Floats:
    """Return counts of words by the hash of the word, (N, size) (Weinberger et al. 2009)."""
    features_NF = np.zeros((len(words_N), size))
    for row, words in enumerate(words_N):
        for word in words:
            code = zlib.crc32(word.encode("utf-8", "replace"))
            features_NF[row, code % size] += 1.0 if code & 0x80000000 else -1.0
    return features_NF


def _vw_rows(lines: Sequence[str], tally: Tally) -> Iterator[_Row]:
    """Yield decisions: of blocks if there is a shared or an empty line between, else of lines."""
    texts = [line.strip() for line in lines]
    for number, text in enumerate(texts, 1):
        if text.startswith(("ccb", "slates")):
            raise DataError(
                f"{tally.path} line {number} is of several slots, got {shown(text)}; "
                "only contextual-bandit examples (cb, cb_adf) can be read"
            )
    while texts and not texts[-1]:
        texts.pop()
    if not any(not text or text.startswith("shared") for text in texts):
        for number, text in enumerate(texts, 1):
            yield from _single(text, number, tally)
        return
    block: list[str] = []
    for number, text in enumerate([*texts, ""], 1):
        if text:
            block.append(text)
        elif block:
            yield from _block(block, number, tally)
            block = []


def _label(text: str) -> str | None:
    """Return the labels before the first bar, None without any."""
    label = text.partition("|")[0].strip().removeprefix("shared").strip()
    return label if ":" in label else None


def _single(text: str, number: int, tally: Tally) -> Iterator[_Row]:
    tally.num_read += 1
    labels = [part.split(":") for part in (_label(text) or "").split() if ":" in part]
    taken = [part for part in labels if len(part) > 1]
    if len(taken) != 1:
        tally.add("not exactly one labelled action", f"line {number}")
        return
    row = _parsed(taken[0], text.partition("|")[2].split())
    if row is None:
        tally.add("label is no action:number:probability", f"line {number}: {shown(text)}")
        return
    row.action -= 1
    row.num_actions = max(row.action + 1, len(labels))
    yield row


def _block(block: list[str], number: int, tally: Tally) -> Iterator[_Row]:
    tally.num_read += 1
    shared = [line for line in block if line.startswith("shared")]
    lines = [line for line in block if not line.startswith("shared")]
    labelled = [place for place, line in enumerate(lines) if _label(line) is not None]
    if len(labelled) != 1:
        reason = "no labelled action" if not labelled else "more than one labelled action"
        tally.add(reason, f"block before line {number}")
        return
    words = shared[0].partition("|")[2].split() if shared else []
    row = _parsed((_label(lines[labelled[0]]) or "").split(":"), words)
    if row is None:
        tally.add("label is no action:number:probability", f"block before line {number}")
        return
    row.action, row.num_actions = labelled[0], len(lines)
    yield row


def _parsed(label: Sequence[str], words: Sequence[str]) -> _Row | None:
    try:
        numbers = [float(part) for part in label]
        propensity = numbers[2] if len(numbers) > 2 else np.nan
        return _Row(int(numbers[0]), -numbers[1], propensity, 0, words)
    except (ValueError, OverflowError):
        return None


def _dsjson_rows(lines: Iterable[str], tally: Tally) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        tally.num_read += 1
        try:
            record = json.loads(line)
            yield _decision(record)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            tally.add("not a contextual-bandit decision", f"line {number}: {shown(str(error))}")


def _decision(record: dict[str, Any]) -> _Row:
    taken, actions, chances = record["_labelIndex"], record["a"], record["p"]
    if len(actions) != len(chances):
        raise ValueError(f"{len(actions)} actions and {len(chances)} probabilities")
    context = {name: value for name, value in record["c"].items() if name != "_multi"}
    return _Row(
        action=int(taken),
        reward=-float(record["_label_cost"]),
        propensity=float(record["_label_probability"]),
        num_actions=len(actions),
        words=list(_flat("", context)),
        logging={int(a) - 1: float(p) for a, p in zip(actions, chances, strict=True)},
    )


def _flat(prefix: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(prefix, inner)
    else:
        yield f"{prefix}={value}"


def _assembled(
    rows: Sequence[_Row],
    tally: Tally,
    num_actions: int | None,
    reward_range: tuple[float, float],
) -> tuple[Logged, ReadReport]:
    if not rows:
        tally.report(0)
    s = num_actions or max(max(row.num_actions, row.action + 1) for row in rows)
    logging_NS = None
    if all(row.logging is not None for row in rows):
        logging_NS = np.zeros((len(rows), s))
        for place, row in enumerate(rows):
            for action, chance in (row.logging or {}).items():
                if 0 <= action < s:
                    logging_NS[place, action] = chance
    logged, _, report = clean(
        action_N=np.array([row.action for row in rows], dtype=np.int64),
        reward_N=np.array([row.reward for row in rows]) + 0.0,
        propensity_N=np.array([row.propensity for row in rows]),
        num_actions=s,
        logging_NS=logging_NS,
        features_NF=hashed([row.words for row in rows]),
        reward_range=reward_range,
        path=tally.path,
    )
    for reason, count in report.skipped.items():
        tally.add(reason, report.examples[reason][0], count)
    return logged, tally.report(report.num_kept)


def _lines(path: str | Path) -> list[str]:
    _check_file(Path(path))
    return Path(path).read_text("utf-8", "replace").splitlines()


def _table(path: Path) -> pa.Table:
    _check_file(path)
    try:
        return pacsv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read: {error}; give a Parquet or CSV file") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise NotFound(f"there is no file {path}; check the path")


def _numbers(table: pa.Table, name: str, path: str | Path) -> Floats:
    for known in _NAMES[name]:
        if known in table.column_names:
            column = table[known].cast(pa.float64()).to_numpy()
            return np.asarray(column, dtype=np.float64)
    what = "propensities, without which no policy can be evaluated" if "prop" in name else name
    raise DataError(
        f"{path} has no column {' or '.join(_NAMES[name])} ({what}), got "
        f"{shown(table.column_names)}; rename the column"
    )
