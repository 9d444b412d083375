"""Logs of other systems and of Rove's own ledger, on files written here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from rove.config import StoreSection
from rove.errors import DataError, NotFound
from rove.events import Decision, Interaction, InteractionType, Slot
from rove.ledger.ledger import Ledger
from rove.ledger.records import StoredInteraction, StoredStatus
from rove.ope import (
    read_dsjson,
    read_ledger,
    read_open_bandit,
    read_vw,
    reward_interaction_ips,
)
from rove.rewards import PRESETS


def bandit_table(**changes: list[Any]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "policy": ["random", "random", "bts"],
        "item_id": [0, 2, 1],
        "position": [1, 2, 3],
        "click": [1, 0, 0],
        "propensity_score": [0.5, 0.25, 0.1],
        "user_feature_0": ["a", "b", "a"],
    }
    return pa.table({**columns, **changes})


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_open_bandit_files_give_the_rows_of_one_policy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        pacsv.write_csv(bandit_table(), path)
    else:
        pq.write_table(bandit_table(), path)
    logged, report = read_open_bandit(path, policy="random")
    assert logged.action_N.tolist() == [0, 2]
    assert logged.reward_N.tolist() == [1.0, 0.0]
    assert logged.propensity_N.tolist() == [0.5, 0.25]
    assert logged.num_actions == 3
    assert logged.features_NF is not None and logged.features_NF.any(axis=1).all()
    assert report.num_kept == 2


def test_open_bandit_rows_without_a_click_or_propensity_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(
        bandit_table(click=[1, None, 0], propensity_score=[0.5, 0.5, 0.0], item_id=[0, 1, 1]), path
    )
    logged, report = read_open_bandit(path)
    assert len(logged.action_N) == 1
    assert report.skipped == {"no finite reward": 1, "propensity is not above 0": 1}


def test_open_bandit_files_without_propensities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(bandit_table().drop_columns(["propensity_score"]), path)
    with pytest.raises(DataError, match=re.escape("has no column propensity_score or action_prob")):
        read_open_bandit(path)
    pq.write_table(bandit_table(), path)
    with pytest.raises(DataError, match=re.escape("no rows of the policy 'other', got")):
        read_open_bandit(path, policy="other")
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(DataError, match=re.escape("cannot be read")):
        read_open_bandit(tmp_path / "bad.parquet")
    with pytest.raises(NotFound, match=re.escape("there is no file")):
        read_open_bandit(tmp_path / "none.parquet")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "log.txt"
    path.write_text(text, "utf-8")
    return path


def test_vw_lines_are_decisions_of_numbered_actions(tmp_path: Path) -> None:
    text = "1:0.5:0.25 | a b\n3:1:0.5 | c\n2 4:0:0.125 2:1 | a\n"
    logged, report = read_vw(written(tmp_path, text))
    assert logged.action_N.tolist() == [0, 2]
    assert logged.reward_N.tolist() == [-0.5, -1.0]
    assert logged.propensity_N.tolist() == [0.25, 0.5]
    assert logged.num_actions == 3
    assert report.skipped == {"not exactly one labelled action": 1}


def test_vw_blocks_are_decisions_of_listed_actions(tmp_path: Path) -> None:
    text = (
        "shared | user=ann\n| a\n0:1:0.25 | b\n| c\n\n"
        "shared | user=bob\n0:0:0.5 | a\n| b\n\n"
        "shared | user=eve\n| a\n| b\n\n"
        "shared | user=eve\n0:0:0.5 | a\n0:0:0.5 | b\n\n"
        "shared | user=eve\n0:0:often | a\n| b\n"
    )
    logged, report = read_vw(written(tmp_path, text))
    assert logged.action_N.tolist() == [1, 0]
    assert logged.reward_N.tolist() == [-1.0, 0.0]
    assert logged.propensity_N.tolist() == [0.25, 0.5]
    assert logged.num_actions == 3
    assert report.num_read == 5 and report.num_kept == 2
    assert report.skipped == {
        "no labelled action": 1,
        "more than one labelled action": 1,
        "label is no action:number:probability": 1,
    }


def test_vw_blocks_need_no_shared_line(tmp_path: Path) -> None:
    logged, _ = read_vw(written(tmp_path, "0:1:0.5 | a\n| b\n\n| a\n0:0:0.5 | b\n"))
    assert logged.action_N.tolist() == [0, 1]


def test_vw_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("no propensities, got 1 rows without")):
        read_vw(written(tmp_path, "1:0.5 | a\n"))
    with pytest.raises(DataError, match=re.escape("line 1 is of several slots")):
        read_vw(written(tmp_path, "ccb shared | a\n"))
    with pytest.raises(DataError, match=re.escape("a reward outside reward_range [-1, 0]")):
        read_vw(written(tmp_path, "1:-2:0.5 | a\n"))
    with pytest.raises(DataError, match=re.escape("no decision can be used")):
        read_vw(written(tmp_path, ""))


def dsjson(**changes: Any) -> str:
    record: dict[str, Any] = {
        "_label_cost": -1.0,
        "_label_probability": 0.75,
        "_label_Action": 2,
        "_labelIndex": 1,
        "a": [2, 1],
        "p": [0.75, 0.25],
        "c": {"FromUrl": [{"time": "noon"}], "_multi": [{"i": 1}, {"i": 2}]},
    }
    return json.dumps({**record, **changes})


def test_dsjson_gives_the_probabilities_of_all_actions(tmp_path: Path) -> None:
    """`a` lists actions from 1 in the order of `p`."""
    lines = [dsjson(), dsjson(_labelIndex=0, _label_probability=0.25, _label_cost=-0.0)]
    logged, _ = read_dsjson(written(tmp_path, "\n".join(lines) + "\n"))
    assert logged.action_N.tolist() == [1, 0]
    assert logged.reward_N.tolist() == [1.0, 0.0]
    assert logged.logging_NS is not None
    assert logged.logging_NS.tolist() == [[0.25, 0.75]] * 2


def test_dsjson_lines_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    lines = [
        dsjson(),
        "{",
        '{"EventId": "an outcome without a decision"}',
        dsjson(p=[0.75, 0.2, 0.05]),
        dsjson(p=[0.75, 0.75]),
        dsjson(_label_probability=0.3),
    ]
    logged, report = read_dsjson(written(tmp_path, "\n".join(lines)))
    assert len(logged.action_N) == 1
    assert report.skipped == {
        "not a contextual-bandit decision": 3,
        "probabilities do not sum to one": 1,
        "propensity is not that of the logged action": 1,
    }


def slot(place: int, item_id: str, propensity: float) -> Slot:
    return Slot(slot=place, item_id=item_id, score=0.0, propensity=propensity, reason="explore")


def decision(event_id: str, slots: list[Slot], **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "event_id": event_id,
        "user_id": "ann",
        "policy": "shop",
        "policy_version": "1",
        "release": "r1",
        "seed": 1,
        "request_digest": "aa",
        "candidates_digest": "bb",
        "num_candidates": 3,
        "slots": slots,
        "created_at": 100.0,
        "expires_at": 200.0,
        "activated_at": 100.0,
    }
    return Decision(**{**fields, **changes})


def answer(
    number: int,
    event_id: str,
    item_id: str,
    reward: float,
    place: int | None = None,
    status: StoredStatus = "accepted",
) -> StoredInteraction:
    return StoredInteraction(
        interaction=Interaction(
            interaction_id=f"{event_id}-{number}",
            user_id="ann",
            item_id=item_id,
            type=InteractionType.CLICK,
            timestamp=150.0 + number,
            event_id=event_id,
            slot=place,
        ),
        reward=reward,
        status=status,
        received_at=160.0,
        session=None,
    )


def store_with_decisions(folder: Path) -> StoreSection:
    """Return a store of two shards with four usable decisions and three that are not."""
    store = StoreSection(url=f"sqlite:///{folder}", durability="process")
    two = [slot(0, "apple", 0.5), slot(1, "pear", 0.25)]
    first = [
        decision("e1", two, created_at=101.0),
        decision("e2", [slot(0, "plum", 0.2)], created_at=100.0),
        decision("late", two, expires_at=2_000.0),
        decision("deferred", two, activated_at=None),
    ]
    second = [decision("f1", two, created_at=99.0), decision("f2", two, policy="other")]
    second.append(decision("f3", []))
    answers = [
        answer(1, "e1", "apple", 0.1, 0),
        answer(2, "e1", "apple", 0.4),
        answer(3, "e1", "pear", 0.9, 1, "late"),
        answer(4, "e2", "plum", 1.0, 0),
    ]
    for shard, rows in enumerate((first, second)):
        ledger = Ledger.open(store, shard, 2)
        with ledger.transaction() as transaction:
            transaction.add_decisions(rows)
            if shard == 0:
                transaction.add_interactions(answers)
        ledger.close()
    return store


def test_the_ledger_gives_slates_with_what_their_slots_earned(tmp_path: Path) -> None:
    """The shop's aggregation is the maximum: .4 of .1 and .4; what came late does not count."""
    slates, report = read_ledger(store_with_decisions(tmp_path), PRESETS["shop"], now=1_000.0)
    assert slates.event_ids == ("f1", "e2", "f2", "e1")
    assert slates.item_ids_NK.tolist()[1:] == [["plum", ""], ["apple", "pear"], ["apple", "pear"]]
    assert slates.reward_NK.tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.4, 0.0]]
    assert slates.propensity_NK.tolist()[1:3] == [[0.2, 1.0], [0.5, 0.25]]
    assert report.num_read == 7 and report.num_kept == 4
    assert report.skipped == {
        "never activated": 1,
        "still waiting for rewards": 1,
        "an empty slate": 1,
    }


def test_slates_of_the_ledger_evaluate_another_policy(tmp_path: Path) -> None:
    """Plum with .4 instead of .2 and apple as before: (2 * 1 + 1 * .4) / 3."""
    slates, _ = read_ledger(
        store_with_decisions(tmp_path), PRESETS["shop"], now=1_000.0, policy="shop"
    )
    evaluation_NK = slates.propensity_NK.copy()
    evaluation_NK[slates.item_ids_NK == "plum"] = 0.4
    assert reward_interaction_ips(slates.under(evaluation_NK)).value == pytest.approx(0.8)


def test_one_slot_of_the_ledger_is_a_log_of_single_decisions(tmp_path: Path) -> None:
    slates, _ = read_ledger(store_with_decisions(tmp_path), PRESETS["shop"], now=1_000.0)
    second = slates.slot(1, ["apple", "pear", "plum"])
    assert second.action_N.tolist() == [1, 1, 1]
    assert second.propensity_N.tolist() == [0.25] * 3
    with pytest.raises(DataError, match=re.escape("that are not in item_ids, got 'plum'")):
        slates.slot(0, ["apple"])


def test_a_ledger_without_a_due_decision_is_refused(tmp_path: Path) -> None:
    store = store_with_decisions(tmp_path)
    with pytest.raises(DataError, match=re.escape("still waiting for rewards")):
        read_ledger(store, PRESETS["shop"], now=150.0)
    with pytest.raises(DataError, match=re.escape("a reward outside reward_range [0, 0.5]")):
        read_ledger(store, PRESETS["shop"], now=1_000.0, reward_range=(0.0, 0.5))
