"""Azure Personalizer's routes: with a gateway written by hand, and with Azure's own client."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import pytest
from azure.ai.personalizer import PersonalizerClient
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from benchmarks.fuzz import Case, Requests, service
from rove.catalogue import Item
from rove.config import AccessSection
from rove.errors import InvalidInput, NotFound, Overloaded
from rove.events import Alternative, Decision, RankRequest, Slot
from rove.records import DecisionRecord
from serving.access import Guard
from serving.actions import Actions
from serving.http import Request, Response, Router, problem
from serving.personalizer import PersonalizerApi
from tests.serving.conftest import Server
from tests.serving.test_access import Keys, app

PREFIX = "/personalizer/v1.1-preview.3"
NUM_ODD = 400
ACTIONS: list[dict[str, Any]] = [
    {"id": "NewsArticle", "features": [{"type": "News"}]},
    {"id": "SportsArticle", "features": [{"type": "Sports"}]},
    {"id": "EntertainmentArticle", "features": [{"type": "Entertainment"}]},
]
# As in the examples of Microsoft's specification.
PUBLISHED: dict[str, Any] = {
    "contextFeatures": [
        {"user": {"profileType": "AnonymousUser", "latLong": "47.6,-122.1"}},
        {"environment": {"dayOfMonth": "28", "monthOfYear": "8", "weather": "Sunny"}},
        {"device": {"mobile": True, "windows": True}},
        {"recentActivity": {"itemsInCart": 3}},
    ],
    "actions": ACTIONS,
    "excludedActions": ["SportsArticle"],
    "eventId": "75269AD0-BFEE-4598-8196-C57383D38E10",
    "deferActivation": False,
}
SLOTS: list[dict[str, Any]] = [
    {
        "id": "Main Article",
        "features": [{"size": "Large", "position": "Top Middle"}],
        "excludedActions": ["SportsArticle"],
        "baselineAction": "EntertainmentArticle",
    },
    {"id": "Side Bar", "features": [{"size": "Small"}], "baselineAction": "NewsArticle"},
]
MULTI_SLOT: dict[str, Any] = {
    "contextFeatures": PUBLISHED["contextFeatures"],
    "actions": ACTIONS,
    "slots": SLOTS,
    "eventId": "multi",
}


class Gateway:
    """Has a catalogue, chooses the first candidate, and keeps what it is told."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.puts: list[list[str]] = []
        self.asked: list[RankRequest] = []
        self.decisions: dict[str, Decision] = {}
        self.rewards: list[dict[str, Any]] = []
        self.activated: list[str] = []
        self.busy = False

    async def put(self, items: Sequence[Item]) -> None:
        if items:
            self.puts.append([item.item_id for item in items])
            self.items.update((item.item_id, item) for item in items)

    async def get_item(self, request: Request) -> Response:
        (item_id,) = request.params
        assert request.path == f"/v1/items/{item_id}"
        if item_id not in self.items:
            return problem(NotFound(f"no {item_id}"))
        return Response(200, msgspec.json.encode(self.items[item_id]))

    async def rank(self, request: Request) -> Response:
        if self.busy:
            return problem(Overloaded("too many", retry_after_s=3))
        asked = msgspec.json.decode(request.body, type=RankRequest)
        assert asked.candidates and asked.candidates.item_ids
        ids = asked.candidates.item_ids
        unknown = [one for one in ids if one not in self.items]
        if unknown:
            return problem(InvalidInput("not there", unknown_items=unknown))
        self.asked.append(asked)
        alternatives = [
            Alternative(item_id=one, score=0.0, propensity=1.0 / len(ids)) for one in ids
        ]
        slot = Slot(
            slot=0, item_id=ids[0], score=0.0, propensity=1.0 / len(ids), reason="exploit",
            alternatives=alternatives if asked.alternatives else None,
        )  # fmt: skip
        decision = Decision(
            event_id=asked.event_id or "made-here", user_id=asked.user_id, policy="p",
            policy_version="1", release="r", seed=1, request_digest="d", candidates_digest="c",
            num_candidates=len(ids), slots=[slot], context=asked.context, created_at=0.0,
            expires_at=1.0, activated_at=None,
        )  # fmt: skip
        self.decisions[decision.event_id] = decision
        return Response(201, msgspec.json.encode(decision))

    async def decision(self, request: Request) -> Response:
        (event_id,) = request.params
        if event_id not in self.decisions:
            raise NotFound(f"there is no decision {event_id!r}")
        record = DecisionRecord(decision=self.decisions[event_id], outcome="pending", rewards={})
        return Response(200, msgspec.json.encode(record))

    async def reward(self, request: Request) -> Response:
        await self.decision(request)
        assert unquote(request.path).split("/", 3)[3] == f"{request.params[0]}/reward"
        self.rewards.append({"event": request.params[0], **msgspec.json.decode(request.body)})
        return Response(200, b"{}")

    async def activate(self, request: Request) -> Response:
        await self.decision(request)
        self.activated.append(request.params[0])
        return Response(200, b"{}")


class Bench:
    """The routes over a gateway written by hand."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.now_s = 0.0
        self.router = Router()
        actions = Actions(self.gateway.get_item, self.gateway.put, lambda: self.now_s)
        PersonalizerApi(self.gateway, actions, 100).add_to(self.router)

    async def post(self, path: str, body: Any = None, prefix: str = PREFIX) -> Response:
        sent = b"" if body is None else msgspec.json.encode(body)
        return await self.router.respond(Request("POST", f"{prefix}{path}", body=sent))


def played(script: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        await script(Bench())

    asyncio.run(run())


def read(answer: Response) -> Any:
    return msgspec.json.decode(answer.body)


def test_a_rank_becomes_a_decision_of_one_slot() -> None:
    async def script(bench: Bench) -> None:
        answer = await bench.post("/rank", PUBLISHED)
        assert (answer.status, read(answer)) == (201, {
            "ranking": [
                {"id": "NewsArticle", "probability": 0.5},
                {"id": "EntertainmentArticle", "probability": 0.5},
                {"id": "SportsArticle", "probability": 0.0},
            ],
            "eventId": PUBLISHED["eventId"],
            "rewardActionId": "NewsArticle",
        })  # fmt: skip
        (asked,) = bench.gateway.asked
        assert asked.k == 1 and asked.user_id == f"event-{PUBLISHED['eventId']}"
        assert asked.baseline_items == ["NewsArticle"]
        assert isinstance(asked.context, dict) and asked.context["device.mobile"] is True
        assert bench.gateway.items["NewsArticle"].description == "type: News"

    played(script)


def test_every_version_and_no_multi_slot_in_the_first() -> None:
    async def script(bench: Bench) -> None:
        for version in ("/v1.0", "/v1.1-preview.1", "/v1.1-preview.3", ""):
            prefix = f"/personalizer{version}"
            assert (await bench.post("/rank", PUBLISHED, prefix)).status == 201
            multi = await bench.post("/multislot/rank", MULTI_SLOT, prefix)
            assert multi.status == (404 if version == "/v1.0" else 201)

    played(script)


def test_actions_are_put_into_the_catalogue_once_and_changes_once_a_minute() -> None:
    async def script(bench: Bench) -> None:
        bench.gateway.items["SportsArticle"] = Item(
            item_id="SportsArticle", description="type: Sports"
        )
        await bench.post("/rank", PUBLISHED)
        await bench.post("/rank", PUBLISHED)
        assert bench.gateway.puts == [["NewsArticle", "EntertainmentArticle"]]
        changed = {"actions": [{"id": "NewsArticle", "features": [{"type": "Weather"}]}]}
        bench.now_s = 59.0
        await bench.post("/rank", changed)
        assert len(bench.gateway.puts) == 1
        bench.now_s = 61.0
        await bench.post("/rank", changed)
        assert bench.gateway.puts[1:] == [["NewsArticle"]]

    played(script)


def test_an_action_without_features_is_the_catalogues_item() -> None:
    async def script(bench: Bench) -> None:
        bench.gateway.items["mug"] = mug = Item(item_id="mug", title="A MUG")
        await bench.post("/rank", {"actions": [{"id": "mug", "features": []}, {"id": "new"}]})
        assert bench.gateway.items["mug"] == mug
        assert bench.gateway.items["new"].title == "new"

    played(script)


def test_an_item_that_was_taken_out_is_put_back() -> None:
    async def script(bench: Bench) -> None:
        await bench.post("/rank", PUBLISHED)
        del bench.gateway.items["NewsArticle"]
        assert (await bench.post("/rank", PUBLISHED)).status == 201
        assert bench.gateway.puts[1:] == [["NewsArticle"]]

    played(script)


def test_slots_are_filled_one_after_the_other_as_they_allow() -> None:
    async def script(bench: Bench) -> None:
        body = {**MULTI_SLOT, "contextFeatures": [{"userId": "ann"}]}
        answer = await bench.post("/multislot/rank", body)
        assert (answer.status, read(answer)) == (201, {
            "slots": [
                {"id": "Main Article", "rewardActionId": "NewsArticle"},
                {"id": "Side Bar", "rewardActionId": "SportsArticle"},
            ],
            "eventId": "multi",
        })  # fmt: skip
        first, second = bench.gateway.asked
        assert (first.event_id, second.event_id) == ("multi", "multi/1")
        assert first.user_id == second.user_id == "ann"
        assert first.candidates and second.candidates
        assert first.candidates.item_ids == ["NewsArticle", "EntertainmentArticle"]
        assert second.candidates.item_ids == ["SportsArticle", "EntertainmentArticle"]
        assert second.context == {"slot.size": "Small", "slot.id": "Side Bar"}
        assert [one.baseline_items for one in (first, second)] == [
            ["EntertainmentArticle"], ["NewsArticle"],
        ]  # fmt: skip

    played(script)


def test_what_slots_earn_and_their_activation_go_to_their_decisions() -> None:
    async def script(bench: Bench) -> None:
        await bench.post("/multislot/rank", {**MULTI_SLOT, "deferActivation": True})
        assert all(one.defer_activation for one in bench.gateway.asked)
        reward = {
            "reward": [{"slotId": "Side Bar", "value": 1}, {"slotId": "Main Article", "value": 0.5}]
        }
        for _ in range(2):
            assert (await bench.post("/multislot/events/multi/reward", reward)).status == 204
        told = [(one["event"], one["value"], one["slot"]) for one in bench.gateway.rewards]
        assert told == [("multi/1", 1.0, 0), ("multi", 0.5, 0)] * 2
        assert len({one["interaction_id"] for one in bench.gateway.rewards}) == 4
        assert (await bench.post("/multislot/events/multi/activate")).status == 204
        assert bench.gateway.activated == ["multi", "multi/1"]

    played(script)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message"),
    [
        ("/rank", {"actions": []}, 400, "InvalidRankRequest", "actions is empty"),
        ("/rank", {}, 400, "InvalidRankRequest", "missing required field `actions`"),
        ("/rank", {"actions": [{"id": "a"}], "excludedActions": ["a"]}, 400, "InvalidRankRequest",
         "all actions are excluded"),
        ("/rank", {"actions": [{"id": f"{n}"} for n in range(101)]}, 413, "PayloadSizeExceeded",
         "the limit is 100"),
        ("/multislot/rank", {**MULTI_SLOT, "actions": ACTIONS[:1]}, 400, "InvalidRankRequest",
         "baselineAction"),
        ("/multislot/rank",
         {**MULTI_SLOT, "slots": [
             {**SLOTS[0], "id": one["id"], "baselineAction": one["id"]} for one in ACTIONS
         ]}, 400,
         "InvalidRankRequest", "give more actions"),
        ("/events/e/reward", {"value": "x"}, 400, "InvalidRewardRequest", "Expected `float`"),
        ("/events/e/reward", {"value": 1}, 404, "ResourceNotFound", "there is no decision 'e'"),
        ("/events/e/activate", None, 404, "ResourceNotFound", "there is no decision 'e'"),
        ("/multislot/events/e/reward", {"reward": []}, 404, "ResourceNotFound", "no decision"),
    ],
)  # fmt: skip
def test_errors_are_told_as_there(
    path: str, body: Any, status: int, code: str, message: str
) -> None:
    async def script(bench: Bench) -> None:
        answer = await bench.post(path, body)
        assert (answer.status, read(answer)["error"]["code"]) == (status, code)
        assert message in read(answer)["error"]["message"]
        assert bench.gateway.asked == []

    played(script)


def test_a_reward_for_a_slot_that_is_not_there_is_refused_whole() -> None:
    async def script(bench: Bench) -> None:
        await bench.post("/multislot/rank", MULTI_SLOT)
        reward = [{"slotId": "Side Bar", "value": 1}, {"slotId": "Attic", "value": 1}]
        answer = await bench.post("/multislot/events/multi/reward", {"reward": reward})
        assert answer.status == 400 and "no slot 'Attic'" in read(answer)["error"]["message"]
        assert bench.gateway.rewards == []

    played(script)


def test_overload_says_when_to_come_back() -> None:
    async def script(bench: Bench) -> None:
        bench.gateway.busy = True
        answer = await bench.post("/rank", PUBLISHED)
        assert (answer.status, read(answer)["error"]["code"]) == (429, "429")
        assert answer.headers == (("retry-after", "3"),)

    played(script)


def test_azures_header_carries_the_key(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    text = keys.new("write")
    application = app(Guard(AccessSection(keys=keys.path)))

    async def status_with(*headers: tuple[bytes, bytes]) -> int:
        scope = {
            "type": "http", "method": "POST", "path": "/write", "query_string": b"",
            "headers": headers,
        }  # fmt: skip
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await application(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    header = b"ocp-apim-subscription-key"
    assert asyncio.run(status_with((header, text.encode()))) == 200
    assert asyncio.run(status_with((header, b"rove_wrong"))) == 401
    assert asyncio.run(status_with()) == 401
    # One that is no key of ours does not stand in the way of one that is.
    bearer = (b"authorization", f"Bearer {text}".encode())
    assert asyncio.run(status_with((header, b"old"), bearer)) == 200


def test_odd_bodies_are_answered_in_azures_form(tmp_path: Path) -> None:
    """A real gateway with real shards, in this process; most bodies are damaged, some are good."""
    requests = Requests(np.random.default_rng(0))
    multi_reward = {"reward": [{"slotId": "Side Bar", "value": 1}]}
    paths = [
        ("/rank", PUBLISHED),
        ("/multislot/rank", MULTI_SLOT),
        ("/events/multi/reward", {"value": 1.0}),
        ("/multislot/events/multi/reward", multi_reward),
        ("/multislot/events/multi/activate", {}),
    ]

    async def run() -> Counter[int]:
        statuses: Counter[int] = Counter()
        async with service(tmp_path) as running:
            for number in range(NUM_ODD):
                path, valid = paths[number % len(paths)]
                body = requests._body({**valid, "x": None})
                case = Case(None, "POST", f"{PREFIX}{path}", b"", body, frozenset())
                answer = await running.ask(case)
                statuses[answer.status] += 1
                if answer.status >= 400 and answer.status != 413:
                    error = msgspec.json.decode(answer.body)["error"]
                    assert set(error) == {"code", "message"} and error["message"], case
        return statuses

    statuses = asyncio.run(run())
    assert max(statuses) < 500
    assert {201, 204, 400} <= set(statuses)


@pytest.fixture(scope="module")
def azure(server: Server) -> Iterator[Any]:
    """Azure's client; what it ranks is taken out of the catalogue at the end."""
    key = AzureKeyCredential("unused: this service has no keys")
    with PersonalizerClient(str(server.http.base_url), key) as client:
        yield client
    for action in ACTIONS:
        assert server.http.delete(f"/v1/items/{action['id']}").status_code == 204


@pytest.mark.ray
def test_azures_client_ranks_rewards_and_activates(server: Server, azure: Any) -> None:
    body = {**PUBLISHED, "deferActivation": True}
    ranked = azure.rank(body)
    assert ranked == azure.rank(body)
    assert ranked["eventId"] == PUBLISHED["eventId"]
    probabilities = {one["id"]: one["probability"] for one in ranked["ranking"]}
    assert set(probabilities) == {action["id"] for action in ACTIONS}
    assert probabilities["SportsArticle"] == 0.0
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert probabilities[ranked["rewardActionId"]] > 0.0
    azure.activate(ranked["eventId"])
    azure.reward(ranked["eventId"], {"value": 0.5})
    record = server.http.get(f"/v1/events/{ranked['eventId']}").json()
    assert record["decision"]["activated_at"] is not None
    assert record["decision"]["slots"][0]["propensity"] == probabilities[ranked["rewardActionId"]]
    assert record["rewards"] == {"0": 0.5}


@pytest.mark.ray
def test_azures_client_fills_slots(server: Server, azure: Any) -> None:
    context = [{"user": {"userId": server.user_of(1)}}, {"time": "morning"}]
    for number in range(5):
        body = {**MULTI_SLOT, "eventId": f"slots-{number}", "contextFeatures": context}
        answer = azure.rank_multi_slot(body)
        chosen = {one["id"]: one["rewardActionId"] for one in answer["slots"]}
        assert list(chosen) == ["Main Article", "Side Bar"]
        assert len(set(chosen.values())) == 2 and chosen["Main Article"] != "SportsArticle"
        azure.reward_multi_slot(
            answer["eventId"], {"reward": [{"slotId": "Side Bar", "value": 1.0}]}
        )
        azure.activate_multi_slot(answer["eventId"])
        main, side = (
            server.http.get(f"/v1/events/{name}").json()
            for name in (f"slots-{number}", f"slots-{number}%2F1")
        )
        assert (main["outcome"], side["outcome"]) == ("pending", "rewarded")
        assert side["decision"]["user_id"] == server.user_of(1)
        assert side["decision"]["slots"][0]["item_id"] == chosen["Side Bar"]


@pytest.mark.ray
def test_azures_client_understands_what_is_wrong(azure: Any) -> None:
    with pytest.raises(ResourceNotFoundError, match=re.escape("there is no decision 'never'")):
        azure.reward("never", {"value": 1.0})
    with pytest.raises(HttpResponseError, match=re.escape("(InvalidRankRequest) actions is empty")):
        azure.rank({**PUBLISHED, "actions": []})


@pytest.mark.ray
def test_an_event_without_an_id_or_a_user_gets_both(server: Server) -> None:
    body = {"actions": ACTIONS, "contextFeatures": [{"time": "evening"}]}
    answer = server.http.post(f"{PREFIX}/rank", json=body)
    assert answer.status_code == 201, answer.text
    event_id = answer.json()["eventId"]
    assert server.http.post(f"{PREFIX}/events/{event_id}/reward", json={"value": 1}).content == b""
    decision = server.http.get(f"/v1/events/{event_id}").json()["decision"]
    assert decision["user_id"].startswith("event-")
    assert decision["context"] == {"time": "evening"}
