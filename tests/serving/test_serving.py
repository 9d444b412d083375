"""The HTTP API of a real local Serve, as a plain client sees it."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from rove.sharding import shard_of
from tests.serving.conftest import NUM_ITEMS, NUM_SHARDS, Server

pytestmark = pytest.mark.ray

PROBLEM = "application/problem+json"


def rank(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/rank", json=body)
    assert answer.status_code == 201, answer.text
    decision: dict[str, Any] = answer.json()
    return decision


def post(server: Server, *interactions: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = server.http.post("/v1/events", json={"interactions": interactions})
    assert answer.status_code == 200, answer.text
    outcomes: list[dict[str, Any]] = answer.json()["outcomes"]
    return outcomes


def items_of(decision: Mapping[str, Any]) -> list[str]:
    return [slot["item_id"] for slot in decision["slots"]]


def bought(interaction_id: str, user_id: str, item_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "interaction_id": interaction_id,
        "user_id": user_id,
        "item_id": item_id,
        "type": "purchase",
        **fields,
    }


def test_a_decision_has_distinct_items_with_propensities(server: Server) -> None:
    decision = rank(server, user_id=server.users[0], k=10)
    assert len(set(items_of(decision))) == 10
    assert set(items_of(decision)) <= set(server.items)
    assert all(0.0 < slot["propensity"] <= 1.0 for slot in decision["slots"])
    assert decision["expires_at"] > decision["created_at"]


def test_a_gateways_event_id_names_the_users_shard(server: Server) -> None:
    for user_id in server.users[:4]:
        event_id = rank(server, user_id=user_id, k=1)["event_id"]
        shard = shard_of(user_id, NUM_SHARDS)
        assert re.fullmatch(rf"{shard}-[0-9a-f]{{32}}", event_id)


def test_the_same_id_and_body_get_the_same_decision(server: Server) -> None:
    body = {"user_id": server.users[1], "k": 5, "event_id": "asked-twice"}
    assert rank(server, **body) == rank(server, **body)


def test_the_same_id_with_another_body_is_a_conflict(server: Server) -> None:
    rank(server, user_id=server.users[1], k=5, event_id="used-once")
    answer = server.http.post(
        "/v1/rank", json={"user_id": server.users[1], "k": 6, "event_id": "used-once"}
    )
    assert answer.status_code == 409
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["event_id"] == "used-once"


def test_candidates_are_by_id_category_or_meaning(server: Server) -> None:
    some = server.items[:7]
    decision = rank(server, user_id=server.users[0], k=7, candidates={"item_ids": some})
    assert set(items_of(decision)) == set(some)
    by_category = {"user_id": server.users[0], "k": 1, "candidates": {"category": "none"}}
    assert server.http.post("/v1/rank", json=by_category).status_code in (400, 404)
    query = "a bag for my lunch"
    by_meaning = rank(server, user_id=server.users[0], k=100, candidates={"query": query})
    assert by_meaning["num_candidates"] < NUM_ITEMS
    titles = [server.http.get(f"/v1/items/{one}").json()["title"] for one in server.items]
    embeddings = server.http.post("/v1/embeddings", json={"input": [query, *titles]}).json()
    vectors = np.array([row["embedding"] for row in embeddings["data"]])
    nearest = np.argsort(-vectors[1:] @ vectors[0])[: by_meaning["num_candidates"]]
    assert set(items_of(by_meaning)) <= {server.items[row] for row in nearest}


def test_the_next_rank_reflects_an_acknowledged_event(server: Server) -> None:
    """Every time: the item was just bought, and what was bought is excluded."""
    user_id = server.users[2]
    for number in range(5):
        first = items_of(rank(server, user_id=user_id, k=5, exclude_seen=True))[0]
        (outcome,) = post(server, bought(f"next-{number}", user_id, first))
        assert outcome["status"] == "accepted"
        assert first not in items_of(rank(server, user_id=user_id, k=20, exclude_seen=True))


def test_an_interaction_counts_once(server: Server) -> None:
    user_id = server.users[3]
    before = server.http.get(f"/v1/users/{user_id}").json()["num_interactions"]
    row = bought("once", user_id, server.items[0])
    assert [outcome["status"] for outcome in post(server, row)] == ["accepted"]
    assert [outcome["status"] for outcome in post(server, row, row)] == ["duplicate"] * 2
    assert server.http.get(f"/v1/users/{user_id}").json()["num_interactions"] == before + 1


def test_rows_are_judged_one_by_one_and_answered_in_order(server: Server) -> None:
    rows = [
        bought(f"row-{number}", user_id, server.items[number])
        for number, user_id in enumerate(server.users[:6])
    ]
    bad = [
        {"interaction_id": "no-user"},
        bought("no-such-type", server.users[0], server.items[0], type="glance"),
        bought("no-such-item", server.users[0], "never-heard-of"),
        bought("unknown-key", server.users[0], server.items[0], colour="red"),
        7,
        bought("not-shown", server.users[0], server.items[0], event_id="never-decided"),
    ]
    mixed = [row for pair in zip(rows, bad, strict=True) for row in pair]
    answer = server.http.post("/v1/events", json={"interactions": mixed})
    outcomes = answer.json()["outcomes"]
    assert [outcome["interaction_id"] for outcome in outcomes] == [
        row["interaction_id"] if isinstance(row, dict) else "" for row in mixed
    ]
    assert [outcome["status"] for outcome in outcomes[::2]] == ["accepted"] * 6
    assert [outcome["status"] for outcome in outcomes[1::2]] == ["rejected"] * 5 + ["unattributed"]
    assert all(outcome["reason"] for outcome in outcomes[1::2])


def test_no_interactions_have_no_outcomes(server: Server) -> None:
    assert post(server) == []


def test_a_reward_is_found_by_its_event_id_alone(server: Server) -> None:
    """The first id names its shard; the second is the client's own and is asked for everywhere."""
    for event_id in (None, "rewarded-by-client-id"):
        decision = rank(server, user_id=server.user_of(1), k=3, event_id=event_id)
        path = f"/v1/events/{decision['event_id']}"
        assert server.http.get(path).json()["outcome"] == "pending"
        for status in ("accepted", "duplicate"):
            answer = server.http.post(f"{path}/reward", json={"value": 1.0, "slot": 1})
            assert answer.json()["status"] == status
        record = server.http.get(path).json()
        assert record["decision"] == decision
        assert record["outcome"] == "rewarded"
        assert record["rewards"] == {"1": 1.0}


def test_a_second_reward_needs_an_id_of_its_own(server: Server) -> None:
    decision = rank(server, user_id=server.users[4], k=1)
    path = f"/v1/events/{decision['event_id']}/reward"
    ids = [
        server.http.post(path, json=body).json()["interaction_id"]
        for body in ({"value": 1}, {"value": 1, "interaction_id": "second"})
    ]
    assert ids[1] == "second"
    assert ids[0] != ids[1]


def test_a_reward_names_one_slot(server: Server) -> None:
    decision = rank(server, user_id=server.users[4], k=3)
    path = f"/v1/events/{decision['event_id']}/reward"
    second = items_of(decision)[1]
    assert server.http.post(path, json={"value": 1, "item_id": second}).status_code == 200
    for body in ({"value": 1}, {"value": 1, "slot": 3}, {"value": 1, "slot": 0, "item_id": second}):
        answer = server.http.post(path, json=body)
        assert answer.status_code == 400
        assert "name one" in answer.json()["detail"]


def test_a_deferred_decision_is_activated(server: Server) -> None:
    decision = rank(server, user_id=server.users[5], k=2, defer_activation=True)
    assert decision["activated_at"] is None
    path = f"/v1/events/{decision['event_id']}/activate"
    activated = server.http.post(path)
    assert activated.status_code == 200
    assert activated.json()["activated_at"] >= decision["created_at"]
    assert server.http.post(path).json() == activated.json()


@pytest.mark.parametrize("suffix", ["", "/reward", "/activate"])
def test_an_unknown_decision_is_not_found(server: Server, suffix: str) -> None:
    path = f"/v1/events/nobody-made-this{suffix}"
    body = {"value": 1} if suffix == "/reward" else None
    answer = server.http.get(path) if not suffix else server.http.post(path, json=body)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == PROBLEM


def test_a_decision_is_not_another_users(server: Server) -> None:
    decision = rank(server, user_id=server.user_of(0), k=1)
    path = f"/v1/events/{decision['event_id']}"
    other = server.user_of(0, 1)
    assert server.http.get(path, params={"user_id": server.user_of(0)}).status_code == 200
    assert server.http.get(path, params={"user_id": other}).status_code == 404
    body = {"value": 1, "user_id": other}
    assert server.http.post(f"{path}/reward", json=body).status_code == 404


def test_a_new_item_can_be_recommended_at_once_by_its_text(server: Server) -> None:
    """By every shard; an id may have any printable characters."""
    path = "/v1/items/new%2Ftea%20set"
    started = time.monotonic()
    put = server.http.put(path, json={"title": "VINTAGE TEA SET WITH FOUR CUPS"})
    assert put.status_code == 200, put.text
    assert put.json() == {"item_id": "new/tea set", "title": "VINTAGE TEA SET WITH FOUR CUPS"}
    for shard in range(NUM_SHARDS):
        decision = rank(
            server,
            user_id=server.user_of(shard),
            k=1,
            candidates={"item_ids": ["new/tea set"]},
        )
        assert items_of(decision) == ["new/tea set"]
        assert np.isfinite(decision["slots"][0]["score"])
    assert time.monotonic() - started < 5.0
    assert server.http.get(path).json() == put.json()
    assert server.http.delete(path).status_code == 204
    assert server.http.get(path).status_code == 404
    assert server.http.delete(path).status_code == 404


def test_an_item_of_the_release_can_be_deleted_and_put_back(server: Server) -> None:
    item_id = server.items[-1]
    path = f"/v1/items/{item_id}"
    item = server.http.get(path).json()
    assert server.http.delete(path).status_code == 204
    body = {"user_id": server.users[0], "k": 1, "candidates": {"item_ids": [item_id]}}
    assert server.http.post("/v1/rank", json=body).status_code in (400, 404)
    del item["item_id"]
    assert server.http.put(path, json=item).status_code == 200
    assert server.http.post("/v1/rank", json=body).status_code == 201


def test_a_batch_of_items_is_judged_row_by_row(server: Server) -> None:
    rows = [
        {"item_id": "batch-1", "title": "A RED VASE"},
        {"item_id": "batch-1", "title": "A BLUE VASE"},
        {"item_id": "batch-2"},
        {"title": "NO ID"},
        {"item_id": "batch-3", "title": "A GREEN VASE", "colour": "green"},
        {"item_id": "batch-4", "description": "A white vase"},
    ]
    outcomes = server.http.post("/v1/items:batch", json={"items": rows}).json()["outcomes"]
    assert [outcome["status"] for outcome in outcomes] == [
        "stored", "rejected", "rejected", "rejected", "rejected", "stored",
    ]  # fmt: skip
    assert [outcome["item_id"] for outcome in outcomes] == [
        "batch-1", "batch-1", "batch-2", "", "batch-3", "batch-4",
    ]  # fmt: skip
    assert server.http.get("/v1/items/batch-1").json()["title"] == "A RED VASE"
    for item_id in ("batch-1", "batch-4"):
        assert server.http.delete(f"/v1/items/{item_id}").status_code == 204


def test_a_user_is_erased(server: Server) -> None:
    user_id = server.users[-1]
    rank(server, user_id=user_id, k=1, event_id="erased-with-its-user")
    before = server.http.get(f"/v1/users/{user_id}").json()
    held = server.http.get(f"/v1/users/{user_id}/export").json()
    receipt = server.http.delete(f"/v1/users/{user_id}").json()
    assert receipt["num_interactions"] == before["num_interactions"]
    assert receipt["num_decisions"] == len(held["decisions"]) >= 1
    assert server.http.get(f"/v1/users/{user_id}").status_code == 404
    assert server.http.get("/v1/events/erased-with-its-user").status_code == 404
    assert server.http.delete(f"/v1/users/{user_id}").json()["num_interactions"] == 0


def test_embeddings_are_unit_vectors_in_either_format(server: Server) -> None:
    texts = ["a red vase", "tea for two"]
    answer = server.http.post("/v1/embeddings", json={"input": texts, "model": "any"}).json()
    vectors = np.array([row["embedding"] for row in answer["data"]])
    assert vectors.shape == (2, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert [row["index"] for row in answer["data"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4
    single = server.http.post(
        "/v1/embeddings", json={"input": texts[1], "encoding_format": "base64"}
    ).json()
    decoded = np.frombuffer(base64.b64decode(single["data"][0]["embedding"]), "<f4")
    assert np.allclose(decoded, vectors[1], atol=1e-5)


def test_the_topology_leads_to_the_shards(server: Server) -> None:
    topology = server.http.get("/v1/topology").json()
    assert topology["num_shards"] == NUM_SHARDS
    for user_id in server.users[:5]:
        prefix = topology["paths"][shard_of(user_id, NUM_SHARDS)]
        assert server.http.post(f"{prefix}/v1/rank", json={"user_id": user_id}).status_code == 201


def test_a_shard_neither_answers_nor_stores_for_anothers_user(server: Server) -> None:
    user_id = server.user_of(1)
    before = server.http.get(f"/v1/users/{user_id}").json()["num_interactions"]
    calls = (
        ("POST", "/v1/rank", {"user_id": user_id}),
        ("POST", "/v1/events", {"interactions": [bought("stray", user_id, server.items[0])]}),
        ("GET", f"/v1/users/{user_id}", None),
        ("DELETE", f"/v1/users/{user_id}", None),
    )
    for method, path, body in calls:
        answer = server.http.request(method, f"/shards/0{path}", json=body)
        assert answer.status_code == 421
        assert answer.json()["topology"]["paths"] == ["/shards/0", "/shards/1"]
    assert server.http.get(f"/v1/users/{user_id}").json()["num_interactions"] == before


def test_a_shard_gives_an_event_id_too(server: Server) -> None:
    user_id = server.user_of(1)
    decision = server.http.post("/shards/1/v1/rank", json={"user_id": user_id, "k": 1}).json()
    assert decision["event_id"].startswith("1-")
    assert server.http.get(f"/v1/events/{decision['event_id']}").json()["decision"] == decision


def test_health_and_readiness(server: Server) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}
    ready = server.http.get("/readyz").json()
    assert ready["status"] == "ready"
    assert [shard["shard"] for shard in ready["shards"]] == list(range(NUM_SHARDS))
    assert {shard["num_items"] for shard in ready["shards"]} == {NUM_ITEMS}
    assert server.http.get("/shards/1/readyz").json() == ready["shards"][1]
    assert server.http.get("/shards/1/healthz").json() == {"status": "ok"}


LONG = "x" * 1_000_000
BAD = {
    "malformed JSON": ("POST", "/v1/rank", b'{"user_id": ', 400),
    "not UTF-8": ("POST", "/v1/rank", b'{"user_id": "\xff"}', 400),
    "NaN": ("POST", "/v1/rank", b'{"user_id": "u", "k": NaN}', 400),
    "wrong type": ("POST", "/v1/rank", b'{"user_id": 7}', 400),
    "unknown key": ("POST", "/v1/rank", b'{"user_id": "u", "kay": 7}', 400),
    "k = 0": ("POST", "/v1/rank", b'{"user_id": "u", "k": 0}', 400),
    "k over the catalogue": ("POST", "/v1/rank", b'{"user_id": "u", "k": 900}', 400),
    "k over the candidates": (
        "POST",
        "/v1/rank",
        b'{"user_id": "u", "k": 3, "candidates": {"item_ids": ["22423", "85123A"]}}',
        400,
    ),
    "empty id": ("POST", "/v1/rank", b'{"user_id": ""}', 400),
    "control character": ("POST", "/v1/rank", b'{"user_id": "a\\u0000"}', 400),
    "unknown candidate": (
        "POST",
        "/v1/rank",
        b'{"user_id": "u", "k": 1, "candidates": {"item_ids": ["never-heard-of"]}}',
        400,
    ),
    "two kinds of candidates": (
        "POST",
        "/v1/rank",
        b'{"user_id": "u", "candidates": {"query": "a", "category": "b"}}',
        400,
    ),
    "unknown policy": ("POST", "/v1/rank", b'{"user_id": "u", "policy": "none"}', 404),
    "infinite reward": ("POST", "/v1/events/x/reward", b'{"value": 1e999}', 400),
    "events not in an object": ("POST", "/v1/events", b"[]", 400),
    "too many events": ("POST", "/v1/events", b'{"interactions":[' + b"1," * 1000 + b"1]}", 413),
    "text of 1 MB": ("PUT", "/v1/items/a", b'{"title": "' + LONG.encode() + b'"}', 413),
    "query of 1 MB": (
        "POST",
        "/v1/rank",
        b'{"user_id": "u", "candidates": {"query": "' + LONG.encode() + b'"}}',
        413,
    ),
    "body of 3 MB": ("POST", "/v1/rank", b" " * 3_000_000, 413),
    "item without text": ("PUT", "/v1/items/a", b'{"tags": []}', 400),
    "two item ids": ("PUT", "/v1/items/a", b'{"title": "A", "item_id": "b"}', 400),
    "path not UTF-8": ("GET", "/v1/items/%ff", None, 400),
    "unknown item": ("GET", "/v1/items/never-heard-of", None, 404),
    "unknown user": ("GET", "/v1/users/never-heard-of", None, 404),
    "no texts": ("POST", "/v1/embeddings", b'{"input": []}', 400),
    "tokens for texts": ("POST", "/v1/embeddings", b'{"input": [1, 2]}', 400),
    "wrong vector size": ("POST", "/v1/embeddings", b'{"input": "a", "dimensions": 5}', 400),
    "unknown path": ("GET", "/v1/nothing", None, 404),
    "wrong method": ("GET", "/v1/rank", None, 405),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_problem_that_says_why(server: Server, name: str) -> None:
    method, path, body, status = BAD[name]
    answer = server.http.request(method, path, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:rove:problem:")
    assert problem["detail"]


def test_many_clients_at_once_are_all_answered(server: Server) -> None:
    """They share turns and calls between replicas; each gets its own answer."""

    async def ask() -> list[httpx.Response]:
        base_url = str(server.http.base_url)
        async with httpx.AsyncClient(base_url=base_url, timeout=30.0) as http:
            calls = [
                http.post("/v1/rank", json={"user_id": user_id, "k": 3, "event_id": f"all-{i}"})
                for i, user_id in enumerate(server.users[:60])
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [201] * 60
    assert [answer.json()["user_id"] for answer in answers] == server.users[:60]
    assert [answer.json()["event_id"] for answer in answers] == [f"all-{i}" for i in range(60)]
