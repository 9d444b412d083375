"""What a client says next, step by step, with a clock of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from rove.client import calls, interaction
from rove.client.errors import ClientError, Conflict, NoAnswer, NotFound, Overloaded, Unavailable
from rove.client.steps import Alone, Answer, Lost, Send, Talk, Together, Wait
from rove.client.talks import Talks
from rove.errors import Misdirected
from rove.event_ids import shard_hint
from rove.events import Outcome, RankRequest
from rove.messages import EventOutcomes, Topology
from rove.sharding import HASH_NAME, shard_of

REQUEST = RankRequest(user_id="ann", k=1)


class Clock:
    """Stands still unless it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Shell:
    """Plays talks with replies by path and hears what is said."""

    def __init__(self, *, direct: bool = True, timeout_s: float = 10.0) -> None:
        self.clock = Clock()
        self.talks = Talks(direct=direct, timeout_s=timeout_s, clock=self.clock, rng=Random(0))
        self.replies: list[Answer | Lost] = []
        self.sent: list[Send] = []
        self.waits: list[float] = []

    @property
    def paths(self) -> list[str]:
        return [step.path for step in self.sent]

    def play(self, talk: Talk[Any], *replies: Answer | Lost) -> Any:
        self.replies += replies
        reply: Any = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                return end.value
            match step:
                case Send():
                    self.sent.append(step)
                    reply = self.replies.pop(0)
                case Wait(wait_s):
                    self.waits.append(wait_s)
                    self.clock.now_s += wait_s
                    reply = None
                case Together(talks):
                    reply = [self.play(one) for one in talks]
                case Alone(one):
                    reply = self.play(one)


def topology(num_shards: int, epoch: int = 1, hash: str = HASH_NAME) -> Topology:
    paths = [f"/shards/{shard}" for shard in range(num_shards)]
    return Topology(num_shards=num_shards, hash=hash, epoch=epoch, paths=paths)


def ok(body: Any, status: int = 200) -> Answer:
    return Answer(status=status, headers={}, body=msgspec.json.encode(body))


def problem(status: int, **headers: str) -> Answer:
    body = {"type": "urn:x", "title": "Title", "status": status, "detail": "why", "extra": 7}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=status, headers=names, body=msgspec.json.encode(body))


def misdirected(brought: Topology) -> Answer:
    return ok({"detail": "not mine", "topology": msgspec.to_builtins(brought)}, Misdirected.status)


def decided(event_id: str = "e") -> Answer:
    return ok(
        {
            "event_id": event_id, "user_id": "ann", "policy": "p", "policy_version": "1",
            "release": "r", "seed": 1, "request_digest": "d", "candidates_digest": "c",
            "num_candidates": 1, "slots": [], "created_at": 0.0, "expires_at": 1.0,
            "activated_at": None,
        },
        201,
    )  # fmt: skip


def stored(*ids: str) -> Answer:
    outcomes = [Outcome(interaction_id=one, status="accepted") for one in ids]
    return ok(EventOutcomes(outcomes=outcomes))


def test_a_call_about_a_user_goes_straight_to_the_users_shard() -> None:
    shell = Shell()
    assert shell.play(shell.talks.rank(REQUEST), ok(topology(4)), decided()).event_id == "e"
    shard = shard_of("ann", 4)
    assert shell.paths == ["/v1/topology", f"/shards/{shard}/v1/rank"]
    event_id = msgspec.json.decode(shell.sent[-1].body)["event_id"]
    assert shard_hint(event_id, 4) == shard


def test_the_topology_is_asked_for_once() -> None:
    shell = Shell()
    shell.play(shell.talks.rank(REQUEST), ok(topology(2)), decided())
    shell.play(shell.talks.rank(REQUEST), decided())
    assert shell.paths.count("/v1/topology") == 1


def test_a_repeated_rank_has_the_same_body() -> None:
    shell = Shell(direct=False)
    shell.play(shell.talks.rank(REQUEST), Lost("reset"), problem(503), decided())
    assert len({step.body for step in shell.sent}) == 1 < len(shell.sent)


def test_without_direct_everything_goes_to_the_gateway() -> None:
    shell = Shell(direct=False)
    shell.play(shell.talks.rank(REQUEST), decided())
    assert shell.paths == ["/v1/rank"]


def test_a_hash_that_is_not_known_is_left_to_the_gateway() -> None:
    shell = Shell()
    shell.play(shell.talks.rank(REQUEST), ok(topology(2, hash="other")), decided())
    assert shell.paths == ["/v1/topology", "/v1/rank"]


def test_without_a_topology_the_gateway_answers_and_is_asked_again_later() -> None:
    shell = Shell()
    shell.play(shell.talks.rank(REQUEST), problem(404), decided())
    shell.play(shell.talks.rank(REQUEST), decided())
    assert shell.paths == ["/v1/topology", "/v1/rank", "/v1/rank"]
    shell.clock.now_s += 6.0
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), decided())
    assert shell.paths[3:] == ["/v1/topology", "/shards/0/v1/rank"]


@pytest.mark.parametrize("reply", [Lost("refused"), problem(502), problem(503), problem(504)])
def test_a_shard_that_cannot_be_reached_is_asked_through_the_gateway(reply: Answer | Lost) -> None:
    shell = Shell()
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), reply, decided())
    assert shell.paths[1:] == ["/shards/0/v1/rank", "/v1/rank"]
    shell.play(shell.talks.rank(REQUEST), decided())
    assert shell.paths[-1] == "/v1/rank"
    shell.clock.now_s += 6.0
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), decided())
    assert shell.paths[-1] == "/shards/0/v1/rank"


def test_an_overloaded_shard_is_not_asked_by_another_way() -> None:
    shell = Shell()
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), problem(429), decided())
    assert shell.paths[1:] == ["/shards/0/v1/rank"] * 2


def test_what_a_shards_path_does_not_know_the_gateway_is_asked() -> None:
    shell = Shell()
    with pytest.raises(NotFound, match=re.escape("404 Title: why")):
        shell.play(shell.talks.ask(calls.user("ann")), ok(topology(1)), *[problem(404)] * 2)
    assert shell.paths[1:] == ["/shards/0/v1/users/ann", "/v1/users/ann"]
    assert shell.waits == []


def test_a_421_brings_the_topology_to_follow() -> None:
    """The user moves when a second shard is added; nothing is asked for, nothing is waited for."""
    user_id = next(f"u{n}" for n in range(99) if shard_of(f"u{n}", 2) == 1)
    shell = Shell()
    talk = shell.talks.rank(RankRequest(user_id=user_id, k=1))
    shell.play(talk, ok(topology(1)), misdirected(topology(2, epoch=2)), decided())
    assert shell.paths == ["/v1/topology", "/shards/0/v1/rank", "/shards/1/v1/rank"]
    assert shell.waits == []


def test_a_421_with_an_older_topology_sends_the_call_to_the_gateway() -> None:
    shell = Shell()
    old = misdirected(topology(2, epoch=1))
    shell.play(shell.talks.rank(REQUEST), ok(topology(1, epoch=2)), old, decided())
    assert shell.paths[1:] == ["/shards/0/v1/rank", "/v1/rank"]


def test_shards_that_contradict_each_other_end_at_the_gateway() -> None:
    shell = Shell()
    replies = [misdirected(topology(1 + n % 2, epoch=1)) for n in range(1, 4)]
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), *replies, decided())
    assert shell.paths[-1] == "/v1/rank"


def test_a_421_without_a_topology_has_it_asked_for() -> None:
    shell = Shell()
    replies = [ok(topology(1)), Answer(status=421, headers={}, body=b""), ok(topology(1))]
    shell.play(shell.talks.rank(REQUEST), *replies, decided())
    assert shell.paths == ["/v1/topology", "/shards/0/v1/rank", "/v1/topology", "/v1/rank"]


def test_the_wait_is_the_servers_plus_full_jitter() -> None:
    """Attempt n waits Retry-After + U(0, 0.05 * 2^n)."""
    shell = Shell(direct=False)
    replies: list[Answer | Lost] = [problem(429, retry_after="1"), problem(503, retry_after="2")]
    replies.append(Lost("gone"))
    shell.play(shell.talks.rank(REQUEST), *replies, decided())
    rng = Random(0)
    assert shell.waits == pytest.approx(
        [1 + rng.uniform(0, 0.05), 2 + rng.uniform(0, 0.1), rng.uniform(0, 0.2)]
    )


def test_a_wait_beyond_the_deadline_is_not_waited() -> None:
    shell = Shell(direct=False, timeout_s=5.0)
    with pytest.raises(Overloaded, match=re.escape("429 Title: why")) as caught:
        shell.play(shell.talks.rank(REQUEST), problem(429, retry_after="7"))
    assert caught.value.retry_after_s == 7.0 and caught.value.fields == {"extra": 7}
    assert shell.waits == []


def test_retries_end_with_the_deadline() -> None:
    shell = Shell(direct=False, timeout_s=1.0)
    with pytest.raises(Unavailable, match=re.escape("503")):
        shell.play(shell.talks.rank(REQUEST), *[problem(503)] * 100)
    assert shell.clock.now_s <= 101.0
    shell = Shell(direct=False, timeout_s=1.0)
    with pytest.raises(NoAnswer, match=re.escape("no answer to POST /v1/rank after")):
        shell.play(shell.talks.rank(REQUEST), *[Lost("refused")] * 100)


def test_an_attempt_has_what_is_left_and_a_shards_own_path_half_of_it() -> None:
    shell = Shell(timeout_s=8.0)
    shell.play(shell.talks.rank(REQUEST), ok(topology(1)), decided())
    assert [step.timeout_s for step in shell.sent] == [4.0, 4.0]
    shell = Shell(direct=False, timeout_s=8.0)
    shell.play(shell.talks.rank(REQUEST), decided())
    assert shell.sent[0].timeout_s == 8.0


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    shell = Shell(direct=False)
    with pytest.raises(ClientError, match=re.escape(f"{status} Title: why")):
        shell.play(shell.talks.rank(REQUEST), problem(status))
    assert len(shell.sent) == 1


def test_rows_are_sent_to_their_shards_and_answered_in_order() -> None:
    rows = [interaction(f"u{n}", "mug", "click", interaction_id=f"i{n}") for n in range(6)]
    owners = [shard_of(f"u{n}", 2) for n in range(6)]
    assert set(owners) == {0, 1}
    first = owners[0]
    by_shard = [[f"i{n}" for n in range(6) if owners[n] == s] for s in (first, 1 - first)]
    shell = Shell()
    outcomes: Sequence[Outcome] = shell.play(
        shell.talks.events(rows), ok(topology(2)), *[stored(*ids) for ids in by_shard]
    )
    assert [outcome.interaction_id for outcome in outcomes] == [f"i{n}" for n in range(6)]
    assert shell.paths[1:] == [f"/shards/{s}/v1/events" for s in (first, 1 - first)]


def test_rows_that_no_longer_belong_together_go_through_the_gateway() -> None:
    """Of one shard, then of two: the part cannot follow both."""
    rows = [interaction(f"u{n}", "mug", "click", interaction_id=f"i{n}") for n in range(6)]
    shell = Shell()
    replies = [ok(topology(1)), misdirected(topology(2, epoch=2)), stored(*"abcdef")]
    shell.play(shell.talks.events(rows), *replies)
    assert shell.paths == ["/v1/topology", "/shards/0/v1/events", "/v1/events"]


def test_one_shards_failure_leaves_the_others_rows_stored() -> None:
    rows = [interaction(f"u{n}", "mug", "click", interaction_id=f"i{n}") for n in range(6)]
    shell = Shell()
    shell.play(shell.talks.topology(), ok(topology(2)))
    first = shard_of("u0", 2)
    mine = [row for row in rows if shard_of(row.user_id, 2) == first]
    results = shell.play(
        shell.talks.deliver(rows), stored(*(row.interaction_id for row in mine)), problem(400)
    )
    kinds = [isinstance(result, ClientError) for result in results]
    assert kinds == [shard_of(row.user_id, 2) != first for row in rows]


def test_long_lists_go_in_parts() -> None:
    rows = [interaction("ann", "mug", "click", interaction_id=f"i{n}") for n in range(1500)]
    shell = Shell(direct=False)
    ids = [row.interaction_id for row in rows]
    outcomes = shell.play(shell.talks.events(rows), stored(*ids[:1000]), stored(*ids[1000:]))
    assert [outcome.interaction_id for outcome in outcomes] == ids


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    shell = Shell(direct=False)
    shell.play(shell.talks.ask(calls.delete_item("a/b")), Lost("reset"), problem(404))
    assert shell.paths == ["/v1/items/a%2Fb"] * 2
    with pytest.raises(NotFound, match=re.escape("404")):
        shell.play(shell.talks.ask(calls.delete_item("mug")), problem(404))


def test_a_reward_goes_where_its_decisions_id_points() -> None:
    shell = Shell()
    event_id = f"3-{'0' * 32}"
    answer = ok(Outcome(interaction_id="r", status="accepted"))
    shell.play(shell.talks.ask(calls.reward(event_id, 1.0)), ok(topology(4)), answer)
    assert shell.paths[-1] == f"/shards/3/v1/events/{event_id}/reward"
    shell.play(shell.talks.ask(calls.reward("mine", 1.0)), answer)
    assert shell.paths[-1] == "/v1/events/mine/reward"


def test_an_answer_from_somebody_else_is_said_to_be_unreadable() -> None:
    shell = Shell(direct=False)
    page = Answer(status=200, headers={}, body=b"<html>")
    with pytest.raises(ClientError, match=re.escape("is the address that of a Rove gateway")):
        shell.play(shell.talks.rank(REQUEST), page)


def test_a_problem_without_a_body_is_still_an_error_of_its_kind() -> None:
    shell = Shell(direct=False)
    with pytest.raises(Conflict, match=re.escape("409: ''")):
        shell.play(shell.talks.rank(REQUEST), Answer(status=409, headers={}, body=b""))
