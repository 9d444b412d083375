"""Both clients against a tiny server that answers what it was told to."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from rove.client import (
    AsyncRoveClient,
    BadRequest,
    ClientError,
    Conflict,
    NoAnswer,
    NotAllowed,
    NotFound,
    Overloaded,
    QueueFull,
    RankRequest,
    Refused,
    RoveClient,
    TooLarge,
    Unavailable,
    Undelivered,
    interaction,
)
from rove.client.errors import Unsent
from rove.messages import Topology
from rove.sharding import HASH_NAME

KEY = "rk_very_secret"


class Seen(Struct):
    """A request that the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Script:
    """What the server answers, in order, then for ever the last; and what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.by_path: dict[str, tuple[int, dict[str, str], Any]] = {}
        self.seen: list[Seen] = []
        self.wait_s = 0.0
        self.url = ""
        self._lock = threading.Lock()

    def take(self, seen: Seen) -> tuple[int, dict[str, str], Any]:
        with self._lock:
            self.seen.append(seen)
            if seen.path in self.by_path:
                return self.by_path[seen.path]
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # its 5 are too few for calls that start together


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        content: Any = msgspec.json.decode(body) if body else None
        status, extra, answer = self.script.take(Seen(self.command, self.path, headers, content))
        time.sleep(self.script.wait_s)
        if status == 0:  # hang up without an answer
            self.close_connection = True
            return
        if answer is stored:
            rows = content["interactions"]
            answer = {
                "outcomes": [
                    {"interaction_id": row["interaction_id"], "status": "accepted"} for row in rows
                ]
            }
        sent = msgspec.json.encode(answer)
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


def stored() -> None:
    """Stands for: each row is accepted."""


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    handler = type("Scripted", (Handler,), {"script": script})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


def run(script: Script, use: Callable[[Any], Any], kind: str, **settings: Any) -> Any:
    """Return `use(client)`, awaited where the client is the asynchronous one."""
    # Certificates are not needed, and take 0.1 s to read.
    settings = {"api_key": KEY, "direct": False, "timeout_s": 20.0, "verify": False, **settings}
    if kind == "sync":
        with RoveClient(script.url, **settings) as client:
            return use(client)

    async def main() -> Any:
        async with AsyncRoveClient(script.url, **settings) as client:
            answer = use(client)
            return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(main())


both = pytest.mark.parametrize("kind", ["sync", "async"])
DECISION = {
    "event_id": "e", "user_id": "ann", "policy": "p", "policy_version": "1", "release": "r",
    "seed": 1, "request_digest": "d", "candidates_digest": "c", "num_candidates": 1, "slots": [],
    "created_at": 0.0, "expires_at": 1.0, "activated_at": None,
}  # fmt: skip
PROBLEM = {"type": "urn:x", "title": "Title", "status": 0, "detail": "why"}


def rank(client: Any) -> Any:
    return client.rank(RankRequest(user_id="ann", k=1))


@both
@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_with_the_same_ids(
    script: Script, kind: str, status: int
) -> None:
    script.answers = [(status, {}, PROBLEM), (201, {}, DECISION)]
    assert run(script, rank, kind).event_id == "e"
    first, second = script.seen
    assert first.body == second.body and first.body["event_id"]


@both
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest), (401, NotAllowed), (403, NotAllowed), (404, NotFound), (409, Conflict),
        (413, TooLarge), (418, Refused),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_raised_at_once(
    script: Script, kind: str, status: int, error: type[Refused]
) -> None:
    script.answers = [(status, {}, {**PROBLEM, "status": status, "field": "k"})]
    with pytest.raises(error, match=re.escape(f"{status} Title: why")) as caught:
        run(script, rank, kind)
    assert len(script.seen) == 1
    assert (caught.value.status, caught.value.title, caught.value.detail) == (
        status, "Title", "why",
    )  # fmt: skip
    assert caught.value.fields == {"field": "k"}


@both
def test_retry_after_is_waited_for(script: Script, kind: str) -> None:
    script.answers = [(429, {"retry-after": "0.3"}, PROBLEM), (201, {}, DECISION)]
    start = time.monotonic()
    run(script, rank, kind)
    assert time.monotonic() - start >= 0.3


@both
def test_the_deadline_is_of_all_attempts(script: Script, kind: str) -> None:
    script.answers = [(503, {}, PROBLEM)]
    start = time.monotonic()
    with pytest.raises(Unavailable, match=re.escape("503 Title: why")):
        run(script, rank, kind, timeout_s=1.0)
    assert time.monotonic() - start < 10.0
    assert len(script.seen) > 1


@both
def test_a_server_that_is_silent_is_given_up(script: Script, kind: str) -> None:
    script.answers, script.wait_s = [(201, {}, DECISION)], 1.5
    with pytest.raises(NoAnswer, match=re.escape("no answer to POST /v1/rank after 1 attempts")):
        run(script, rank, kind, timeout_s=0.3)


@both
def test_the_key_is_sent_and_shown_nowhere(script: Script, kind: str) -> None:
    script.answers = [(401, {}, PROBLEM)]
    shown: list[str] = []

    def use(client: Any) -> Any:
        shown.append(f"{client!r} {client}")
        return rank(client)

    with pytest.raises(NotAllowed, match=re.escape("401")) as caught:
        run(script, use, kind)
    assert script.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{shown} {caught.value!r} {caught.value}"


@both
def test_a_421_changes_the_way_of_later_calls_too(script: Script, kind: str) -> None:
    """The user is told apart by two shards; the first answers 421 with the topology of both."""
    topologies = [
        Topology(num_shards=n, hash=HASH_NAME, epoch=n, paths=[f"/shards/{s}" for s in range(n)])
        for n in (1, 2)
    ]
    one, two = msgspec.to_builtins(topologies)
    script.by_path = {
        "/v1/topology": (200, {}, one),
        "/shards/0/v1/rank": (421, {}, {**PROBLEM, "topology": two}),
        "/shards/1/v1/rank": (201, {}, DECISION),
    }

    def use(client: Any) -> Any:
        request = RankRequest(user_id="u0", k=1)  # of shard 1 of 2
        if kind == "sync":
            return [client.rank(request) for _ in range(2)]

        async def two_times() -> Any:
            return [await client.rank(request) for _ in range(2)]

        return two_times()

    assert len(run(script, use, kind, direct=True)) == 2
    assert script.paths == ["/v1/topology", "/shards/0/v1/rank", *["/shards/1/v1/rank"] * 2]


@both
def test_calls_that_start_together_ask_for_the_topology_once(script: Script, kind: str) -> None:
    topology = Topology(num_shards=1, hash=HASH_NAME, epoch=1, paths=["/shards/0"])
    script.by_path = {"/v1/topology": (200, {}, msgspec.to_builtins(topology))}
    script.answers, script.wait_s = [(201, {}, DECISION)], 0.05

    def use(client: Any) -> Any:
        if kind == "async":
            return asyncio.gather(*(rank(client) for _ in range(8)))
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(rank, [client] * 8))

    assert len(run(script, use, kind, direct=True, timeout_s=20.0)) == 8
    assert sorted(script.paths) == ["/shards/0/v1/rank"] * 8 + ["/v1/topology"]


def record(kind: str, num_rows: int, flush_s: float | None = None) -> Callable[[Any], Any]:
    """Record rows and flush."""
    rows = [
        interaction("ann", "mug", "click", interaction_id=f"i{number}")
        for number in range(num_rows)
    ]

    def use(client: Any) -> None:
        for row in rows:
            client.record(row)
        client.flush(flush_s)

    async def use_async(client: Any) -> None:
        for row in rows:
            await client.record(row)
        await client.flush(flush_s)

    return use if kind == "sync" else use_async


def rows_of(script: Script) -> list[str]:
    return [row["interaction_id"] for seen in script.seen for row in seen.body["interactions"]]


@both
def test_recorded_rows_arrive_in_batches_and_in_order(script: Script, kind: str) -> None:
    script.answers = [(200, {}, stored)]
    run(script, record(kind, 250), kind, batch_rows=100)
    assert rows_of(script) == [f"i{number}" for number in range(250)]
    assert len(script.seen) == 3


@both
def test_a_recorded_row_does_not_wait_for_a_full_batch(script: Script, kind: str) -> None:
    script.answers = [(200, {}, stored)]

    def wait_until_sent() -> None:
        deadline = time.monotonic() + 20.0
        while not script.seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert rows_of(script) == ["only"]

    def use(client: Any) -> None:
        client.record(interaction("ann", "mug", "click", interaction_id="only"))
        wait_until_sent()

    async def use_async(client: Any) -> None:
        await client.record(interaction("ann", "mug", "click", interaction_id="only"))
        await asyncio.to_thread(wait_until_sent)

    run(script, use if kind == "sync" else use_async, kind, batch_wait_s=0.01)


@both
def test_recorded_rows_survive_failures_that_pass(script: Script, kind: str) -> None:
    """Longer than one call's deadline: the batch is taken up again."""
    script.answers = [(503, {}, PROBLEM)] * 12 + [(200, {}, stored)]
    run(script, record(kind, 5, 60.0), kind, timeout_s=0.4, max_rows=5, batch_rows=5)
    assert rows_of(script)[-5:] == [f"i{number}" for number in range(5)]


@both
def test_what_could_not_be_delivered_is_raised_with_its_rows(script: Script, kind: str) -> None:
    script.answers = [(503, {}, PROBLEM)]
    with pytest.raises(Undelivered, match=re.escape("7 recorded rows were not stored")) as caught:
        run(script, record(kind, 7), kind, timeout_s=1.0, batch_rows=5)
    ids = [row.interaction.interaction_id for row in caught.value.rows]
    assert ids == [f"i{number}" for number in range(7)]
    assert caught.value.rows[0].reason == "503 Title: why"


@both
def test_leaving_without_a_flush_raises_what_was_not_delivered(script: Script, kind: str) -> None:
    script.answers = [(400, {}, PROBLEM)]

    def use(client: Any) -> Any:
        return client.record(interaction("ann", "mug", "click"))

    with pytest.raises(Undelivered, match=re.escape("400 Title: why")):
        run(script, use, kind)


@both
def test_a_full_queue_blocks_until_there_is_room(script: Script, kind: str) -> None:
    script.answers, script.wait_s = [(200, {}, stored)], 0.02
    run(script, record(kind, 40), kind, batch_rows=4, max_rows=4)
    assert rows_of(script) == [f"i{number}" for number in range(40)]


@both
def test_a_full_queue_raises_if_that_is_chosen(script: Script, kind: str) -> None:
    script.answers, script.wait_s = [(200, {}, stored)], 0.5
    with pytest.raises(QueueFull, match=re.escape("4 rows wait, the limit is 4")):
        run(script, record(kind, 40), kind, batch_rows=4, max_rows=4, on_full="raise")


@both
def test_rejected_rows_are_told_to_who_asked(script: Script, kind: str) -> None:
    outcome = {"interaction_id": "i0", "status": "rejected", "reason": "no such item"}
    script.answers = [(200, {}, {"outcomes": [outcome]})]
    told: list[str | None] = []
    run(script, record(kind, 1), kind, on_rejected=lambda row, outcome: told.append(outcome.reason))
    assert told == ["no such item"]
    with pytest.raises(Undelivered, match=re.escape("no such item")):
        run(script, record(kind, 1), kind)


@pytest.mark.parametrize("status", [200, 400])
def test_a_client_that_nobody_closed_is_closed_at_exit(script: Script, status: int) -> None:
    """The rows of two shards are sent, or the user is told that they were not."""
    paths = [f"/shards/{shard}" for shard in range(2)]
    topology = Topology(num_shards=2, hash=HASH_NAME, epoch=1, paths=paths)
    script.by_path = {"/v1/topology": (200, {}, msgspec.to_builtins(topology))}
    script.answers = [(status, {}, stored if status == 200 else PROBLEM)]
    code = f"""
from rove.client import RoveClient, interaction
client = RoveClient("{script.url}", batch_wait_s=60.0)
for number in range(8):
    client.record(interaction(f"u{{number}}", "mug", "click", interaction_id=f"i{{number}}"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert sorted(set(script.paths)) == [f"{path}/v1/events" for path in paths] + ["/v1/topology"]
    rows = [
        row["interaction_id"]
        for seen in script.seen
        if seen.body
        for row in seen.body["interactions"]
    ]
    assert sorted(rows) == [f"i{number}" for number in range(8)]
    assert ("8 recorded rows were not stored" in done.stderr) == (status == 400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "url must start with http:// or https://, got 'localhost"),
        ({"timeout_s": 0}, "timeout_s must be positive, got 0"),
        ({"batch_rows": 0}, "batch_rows must be positive, got 0"),
        ({"max_rows": 5}, "max_rows = 5 must be at least batch_rows = 100"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=re.escape(message)):
        RoveClient(**{"url": "http://127.0.0.1:1", **settings})


def test_a_closed_client_says_so() -> None:
    client = RoveClient("http://127.0.0.1:1", timeout_s=0.1)
    client.close()
    with pytest.raises(ClientError, match=re.escape("the client is closed")):
        client.record(interaction("ann", "mug", "click"))


def test_errors_survive_pickling_between_processes() -> None:
    refused = Overloaded("why", status=429, title="T", retry_after_s=1.5, fields={"a": 1})
    again = pickle.loads(pickle.dumps(refused))
    assert type(again) is Overloaded and (again.status, again.fields) == (429, {"a": 1})
    rows = [Unsent(interaction=interaction("ann", "mug", "click"), reason="why")]
    assert pickle.loads(pickle.dumps(Undelivered(rows))).rows == tuple(rows)
