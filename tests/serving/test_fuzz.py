"""Requests that nobody should send are answered, each with a documented status, and none harms."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from benchmarks.fuzz import Case, play, service
from rove.errors import InvalidInput
from serving.http import Request

NUM_REQUESTS = 2000
UP_TO = frozenset(range(500))


def test_fuzzed_requests_are_answered_as_documented(tmp_path: Path) -> None:
    report = asyncio.run(play(tmp_path, NUM_REQUESTS, seed=0))
    assert report.wrong == []
    assert sum(report.statuses.values()) == NUM_REQUESTS
    assert {200, 201, 204, 400, 404, 405, 413, 421} <= set(report.statuses)


@pytest.mark.parametrize("slot", [1000, 2**31, 2**63, 10**400])
def test_a_slot_that_no_slate_has_harms_no_other_row(tmp_path: Path, slot: int) -> None:
    """A number that the store cannot keep would fail the whole turn, other clients' rows too."""
    good, bad = (
        {"interaction_id": name, "user_id": "user-1", "item_id": "item-1", "type": "click"}
        for name in ("good", "bad")
    )
    body = msgspec.json.encode({"interactions": [{**bad, "slot": 0}, good]})
    body = body.replace(b'"slot":0', b'"slot":%d' % slot)

    async def run() -> list[str]:
        async with service(tmp_path) as running:
            answer = await running.ask(Case(None, "POST", "/v1/events", b"", body, UP_TO))
        return [row["status"] for row in msgspec.json.decode(answer.body)["outcomes"]]

    assert asyncio.run(run()) == ["rejected", "accepted"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("user_id=%ff", "the query is not UTF-8"),
        ("user_id=", "user_id must have 1 to 256 characters, got ''"),
        ("user_id", "user_id must have 1 to 256 characters, got ''"),
        (f"user_id={'x' * 257}", "user_id must have 1 to 256 characters"),
    ],
)
def test_a_query_argument_that_is_no_id_is_refused(query: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Request("GET", "/", query).argument("user_id")
