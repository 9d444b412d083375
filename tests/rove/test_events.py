"""The records: what they refuse and how they travel."""

from __future__ import annotations

import math
import re

import msgspec
import pytest

from rove.catalogue import Item, check_item
from rove.errors import InvalidInput
from rove.events import (
    MAX_ID_LENGTH,
    MAX_TEXT_LENGTH,
    Candidates,
    Decision,
    Interaction,
    InteractionType,
    Outcome,
    RankRequest,
    Slot,
    check_id,
    check_interaction,
)

CLICK = b'{"interaction_id": "i1", "user_id": "ann", "item_id": "pear", "type": "click"'


def interaction(text: bytes) -> Interaction:
    return msgspec.json.decode(text, type=Interaction)


def test_an_interaction_is_read_from_json() -> None:
    found = interaction(CLICK + b', "value": 2, "slot": 3}')
    assert found == Interaction(
        interaction_id="i1",
        user_id="ann",
        item_id="pear",
        type=InteractionType.CLICK,
        value=2.0,
        slot=3,
    )
    assert found.timestamp is None


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (b', "colour": "red"}', "unknown field `colour`"),
        (b', "slot": -1}', "`int` >= 0"),
        (b', "duration_s": -0.5}', "`float` >= 0.0"),
        (b', "watch_ratio": "all"}', "Expected `float | null`, got `str`"),
        (b', "event_id": ""}', "length >= 1"),
        (b', "value": NaN}', "invalid character"),
        (b', "value": 1e999}', "Number out of range"),
        (b', "text": "\xff"}', "invalid"),
        (b"", "Input data was truncated"),
    ],
)
def test_what_an_interaction_cannot_be_is_refused(rest: bytes, message: str) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError), match=re.escape(message)):
        interaction(CLICK + rest)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape("Invalid enum value 'theft'")):
        interaction(CLICK.replace(b"click", b"theft") + b"}")


def test_lengths_are_bounded() -> None:
    long_id = CLICK.replace(b"pear", b"x" * (MAX_ID_LENGTH + 1)) + b"}"
    with pytest.raises(msgspec.ValidationError, match=re.escape(f"length <= {MAX_ID_LENGTH}")):
        interaction(long_id)
    long_text = CLICK + b', "text": "' + b"x" * (MAX_TEXT_LENGTH + 1) + b'"}'
    with pytest.raises(msgspec.ValidationError, match=re.escape(f"length <= {MAX_TEXT_LENGTH}")):
        interaction(long_text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["value", "duration_s", "watch_ratio", "timestamp"])
def test_numbers_are_finite(field: str, number: float) -> None:
    bad = msgspec.structs.replace(interaction(CLICK + b"}"), **{field: number})
    with pytest.raises(InvalidInput, match=re.escape(f"{field} must be a finite number")) as caught:
        check_interaction(bad)
    assert caught.value.fields == {"field": field}


@pytest.mark.parametrize("field", ["interaction_id", "user_id", "item_id", "event_id"])
def test_ids_are_printable(field: str) -> None:
    bad = msgspec.structs.replace(interaction(CLICK + b"}"), **{field: "a\nb"})
    with pytest.raises(InvalidInput, match=re.escape(f"{field} must not contain control")):
        check_interaction(bad)


def test_usable_interactions_pass() -> None:
    check_interaction(interaction(CLICK + b', "value": -3.5, "event_id": "e1"}'))


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "got 0"), ("x" * 257, "got 257"), ("\ud800", "got '\\ud800'"), ("\x00", "got '\\x00'")],
)
def test_unusable_ids_are_refused(value: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        check_id(value, "user_id")


def test_ids_may_be_any_printable_text() -> None:
    for value in ("17850", "a b/c?d#e", "\N{PEAR}", "x" * 256):
        check_id(value, "user_id")


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_is_bounded(k: int) -> None:
    text = msgspec.json.encode({"user_id": "ann", "k": k})
    with pytest.raises(msgspec.ValidationError, match=re.escape("Expected `int`")):
        msgspec.json.decode(text, type=RankRequest)


def test_a_rank_request_has_defaults() -> None:
    request = msgspec.json.decode(b'{"user_id": "ann"}', type=RankRequest)
    assert request == RankRequest(user_id="ann", k=10)
    assert request.candidates is None


def test_candidates_and_context_are_read() -> None:
    text = b'{"user_id": "ann", "candidates": {"query": "pear"}, "context": {"a": 1.5, "b": null}}'
    request = msgspec.json.decode(text, type=RankRequest)
    assert request.candidates == Candidates(query="pear")
    assert request.context == {"a": 1.5, "b": None}


def test_a_decision_survives_json() -> None:
    decision = Decision(
        event_id="e1",
        user_id="ann",
        policy="shop",
        policy_version="1",
        release="r1",
        seed=2**63,
        request_digest="aa",
        candidates_digest="bb",
        num_candidates=1,
        slots=[Slot(slot=0, item_id="pear", score=0.1, propensity=1 / 3, reason="explore")],
        context="on the phone",
        created_at=1.25,
        expires_at=2.5,
        activated_at=None,
    )
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


def test_an_outcome_says_no_more_than_needed() -> None:
    outcome = Outcome(interaction_id="i1", status="accepted")
    assert msgspec.json.encode(outcome) == b'{"interaction_id":"i1","status":"accepted"}'


def test_an_item_reads_as_its_fields() -> None:
    item = Item(item_id="a", title="Pear", category="fruit", tags=["ripe", "green"])
    assert item.text == "Pear\nfruit\nripe, green"
    check_item(item)


def test_an_item_without_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match=re.escape("item 'a' has no text")):
        check_item(Item(item_id="a", title="  "))
