"""Azure Personalizer's routes: its clients need another address, and nothing else.

`rove.personalizer` says what is translated to what. Requests become calls of the gateway's own
handlers, so everything else (shards, retries, durability) is as for those.

- An action that the catalogue does not have as its features say is put there first, changed
  features at most once a minute (`serving.actions`): what changes with every call belongs into the
  context.
- A reward counts as often as it is sent, as there; how several become one is `rewards.aggregation`.
- Errors are `{"error": {"code", "message"}}`; those of keys, paths and of a body that is too large
  to be read are problems, as elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote
from uuid import uuid4

import msgspec
from msgspec import Struct

from rove.catalogue import Item
from rove.errors import InvalidInput, RoveError
from rove.events import Candidates, Decision, RankRequest
from rove.messages import RewardRequest, UserReference
from rove.personalizer import (
    Action,
    Failure,
    FailureAnswer,
    MultiSlotAnswer,
    MultiSlotRankBody,
    MultiSlotRewardBody,
    RankAnswer,
    RankBody,
    RewardBody,
    SlotAnswer,
    assignable,
    check_slots,
    context_of,
    items_of,
    ranking_of,
    slot_context,
    slot_event_id,
    slots_of,
    user_of_event,
)
from rove.records import DecisionRecord
from serving.actions import Actions
from serving.http import JSON, Decoder, Handler, Request, Response, Router, decoder, problem
from serving.rows import check_size

_VERSIONS = ("/v1.0", "/v1.1-preview.1", "/v1.1-preview.2", "/v1.1-preview.3", "")
"""Empty: 2022-09-01-preview and later name their version in the query."""
_SINGLE_SLOT = frozenset({"/v1.0"})
_CODES = {
    404: "ResourceNotFound",
    409: "OperationNotAllowed",
    413: "PayloadSizeExceeded",
    429: "429",
}

_encode = msgspec.json.Encoder().encode
_rank_body = decoder(RankBody)
_multi_rank_body = decoder(MultiSlotRankBody)
_reward_body = decoder(RewardBody)
_multi_reward_body = decoder(MultiSlotRewardBody)
_read_decision = msgspec.json.Decoder(Decision).decode
_read_record = msgspec.json.Decoder(DecisionRecord).decode


class _Problem(Struct):
    detail: str = ""
    unknown_items: list[str] = []


_read_problem = msgspec.json.Decoder(_Problem).decode


class Calls(Protocol):
    """What is needed of the gateway."""

    async def rank(self, request: Request) -> Response: ...

    async def reward(self, request: Request) -> Response: ...

    async def activate(self, request: Request) -> Response: ...

    async def decision(self, request: Request) -> Response: ...

    async def get_item(self, request: Request) -> Response: ...


class _Refused(Exception):
    """A call of the gateway was not answered as hoped."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status)
        self.answer = answer
        try:
            self.problem = _read_problem(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.problem = _Problem()


class PersonalizerApi:
    """The routes."""

    def __init__(self, calls: Calls, actions: Actions, max_actions: int) -> None:
        self._calls = calls
        self._actions = actions
        self._max_actions = max_actions

    def add_to(self, router: Router) -> None:
        """Serve the routes of every version."""
        single: list[tuple[str, Handler, str]] = [
            ("/rank", self.rank, "InvalidRankRequest"),
            ("/events/{event_id}/reward", self.reward, "InvalidRewardRequest"),
            ("/events/{event_id}/activate", self.activate, "InvalidEventIdToActivate"),
        ]
        multi: list[tuple[str, Handler, str]] = [
            ("/multislot/rank", self.multi_rank, "InvalidRankRequest"),
            ("/multislot/events/{event_id}/reward", self.multi_reward, "InvalidRewardRequest"),
            (
                "/multislot/events/{event_id}/activate",
                self.multi_activate,
                "InvalidEventIdToActivate",
            ),
        ]
        for version in _VERSIONS:
            for path, handler, code in single if version in _SINGLE_SLOT else single + multi:
                router.add("POST", f"/personalizer{version}{path}", _told(handler, code), "write")

    async def rank(self, request: Request) -> Response:
        """Choose one of the actions."""
        body: RankBody = _read(_rank_body, request)
        items = self._items(body.actions)
        excluded = set(body.excluded_actions or ())
        open_ids = [item.item_id for item in items if item.item_id not in excluded]
        if not open_ids:
            raise InvalidInput("all actions are excluded", field="excludedActions")
        context, user_id = context_of(body.context_features)
        wanted = RankRequest(
            user_id=user_id or user_of_event(body.event_id or uuid4().hex),
            event_id=body.event_id or None,
            context=context or None,
            candidates=Candidates(item_ids=open_ids),
            k=1,
            baseline_items=open_ids[:1],
            defer_activation=bool(body.defer_activation),
            alternatives=True,
        )
        decision = await self._decide(request, wanted, items)
        answer = RankAnswer(
            ranking=ranking_of(decision, body.actions),
            event_id=decision.event_id,
            reward_action_id=decision.slots[0].item_id,
        )
        return Response(201, _encode(answer))

    async def multi_rank(self, request: Request) -> Response:
        """Choose an action for each slot, one after the other."""
        body: MultiSlotRankBody = _read(_multi_rank_body, request)
        items = self._items(body.actions)
        check_size(len(body.slots), self._max_actions, "slots")
        ids = [item.item_id for item in items]
        check_slots(body.slots, set(ids))
        context, user_id = context_of(body.context_features)
        user_id = user_id or user_of_event(body.event_id or uuid4().hex)
        event_id, answers = body.event_id or None, []
        left = [set(ids) - set(slot.excluded_actions or ()) for slot in body.slots]
        for number, slot in enumerate(body.slots):
            own = [one for one in ids if one in left[number]]
            wanted = RankRequest(
                user_id=user_id,
                event_id=None if event_id is None else slot_event_id(event_id, number),
                context=slot_context(context, slot, () if number else body.slots),
                candidates=Candidates(item_ids=assignable(own, left[number + 1 :])),
                k=1,
                baseline_items=[slot.baseline_action],
                defer_activation=bool(body.defer_activation),
            )
            decision = await self._decide(request, wanted, items)
            event_id = event_id or decision.event_id
            chosen = decision.slots[0].item_id
            answers.append(SlotAnswer(slot.id, chosen))
            left = [one - {chosen} for one in left]
        assert event_id is not None
        return Response(201, _encode(MultiSlotAnswer(slots=answers, event_id=event_id)))

    async def reward(self, request: Request) -> Response:
        """Reward what was chosen."""
        (event_id,) = request.params
        body: RewardBody = _reward_body(request.body)
        await self._reward(request, event_id, body.value, None)
        return Response(204)

    async def activate(self, request: Request) -> Response:
        """Take note that what was chosen was shown."""
        (event_id,) = request.params
        await self._activate(request, event_id, None)
        return Response(204)

    async def multi_reward(self, request: Request) -> Response:
        """Reward slots."""
        body: MultiSlotRewardBody = _read(_multi_reward_body, request)
        decision = await self._first(request)
        numbers = {slot_id: number for number, slot_id in enumerate(slots_of(decision))}
        for one in body.reward:
            if one.slot_id not in numbers:
                raise InvalidInput(
                    f"the event has no slot {one.slot_id!r}; it has {', '.join(numbers)}",
                    field="reward",
                )
        for one in body.reward:
            event_id = slot_event_id(decision.event_id, numbers[one.slot_id])
            await self._reward(request, event_id, one.value, decision.user_id)
        return Response(204)

    async def multi_activate(self, request: Request) -> Response:
        """Take note that what the slots have was shown."""
        decision = await self._first(request)
        for number in range(len(slots_of(decision))):
            event_id = slot_event_id(decision.event_id, number)
            await self._activate(request, event_id, decision.user_id)
        return Response(204)

    def _items(self, actions: Sequence[Action]) -> list[Item]:
        check_size(len(actions), self._max_actions, "actions")
        return items_of(actions)

    async def _decide(
        self, request: Request, wanted: RankRequest, items: Sequence[Item]
    ) -> Decision:
        """Decide; put what is not in the catalogue there, also if it was thought to be."""
        await self._actions.ensure(items)
        body = _encode(wanted)
        try:
            answer = await self._call(self._calls.rank, request, "/v1/rank", body)
        except _Refused as refused:
            unknown = refused.problem.unknown_items
            if not unknown:
                raise
            await self._actions.renew([item for item in items if item.item_id in unknown])
            answer = await self._call(self._calls.rank, request, "/v1/rank", body)
        return _read_decision(answer.body)

    async def _reward(
        self, request: Request, event_id: str, value: float, user_id: str | None
    ) -> None:
        reward = RewardRequest(value=value, slot=0, interaction_id=uuid4().hex, user_id=user_id)
        path = f"{_event_path(event_id)}/reward"
        await self._call(self._calls.reward, request, path, _encode(reward), event_id)

    async def _activate(self, request: Request, event_id: str, user_id: str | None) -> None:
        body = _encode(UserReference(user_id=user_id))
        path = f"{_event_path(event_id)}/activate"
        await self._call(self._calls.activate, request, path, body, event_id)

    async def _first(self, request: Request) -> Decision:
        """Return the decision of an event's first slot."""
        (event_id,) = request.params
        path = _event_path(event_id)
        answer = await self._call(self._calls.decision, request, path, b"", event_id)
        return _read_record(answer.body).decision

    async def _call(
        self, handler: Handler, request: Request, path: str, body: bytes, *params: str
    ) -> Response:
        """Return a good answer of the gateway's own route; else raise `_Refused`."""
        method = "POST" if body else "GET"
        answer = await handler(
            Request(method, path, body=body, params=params, deadline_s=request.deadline_s)
        )
        if answer.status >= 400:
            raise _Refused(answer)
        return answer


def _read(read: Decoder, request: Request) -> Any:
    """Return the body; raise `InvalidInput` for text that could not be sent on."""
    body = read(request.body)
    if b"\\u" in request.body:
        try:
            _encode(body)
        except UnicodeEncodeError:
            raise InvalidInput("a text is not valid Unicode: a lone surrogate") from None
    return body


def _told(handler: Handler, code: str) -> Handler:
    """Return the handler with its errors told as Personalizer does; `code`: of what is invalid."""

    async def respond(request: Request) -> Response:
        try:
            return await handler(request)
        except _Refused as refused:
            return _failure(refused, code)
        except RoveError as error:
            return _failure(_Refused(problem(error)), code)

    return respond


def _failure(refused: _Refused, code: str) -> Response:
    status = refused.answer.status
    if status >= 500:
        code = "InternalServerError"
    body = FailureAnswer(Failure(_CODES.get(status, code), refused.problem.detail))
    return Response(status, _encode(body), JSON, refused.answer.headers)


def _event_path(event_id: str) -> str:
    return f"/v1/events/{quote(event_id, safe='')}"
