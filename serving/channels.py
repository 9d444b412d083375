"""The gateway's way to one shard: requests that wait for it travel together.

While a call is under way, requests gather; they all go with the next one. There is no timer, so
at one connection nothing waits. A shard that does not answer is retried once, then each of the
requests is answered 503: their ids make sending them again safe.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import structs

from rove.errors import Overloaded, RoveError
from serving.http import Request, Response, problem

_FRAME_BYTES = 1000  # more than what a request has besides its body
Many = Callable[[bytes], Awaitable[bytes]]

_encode_requests = msgspec.msgpack.Encoder().encode
_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
_decode_responses = msgspec.msgpack.Decoder(list[Response]).decode


class Channel:
    """Requests to one shard, in as few calls as its answers allow."""

    def __init__(self, many: Many, *, max_batch: int, max_queue: int, max_bytes: int) -> None:
        self._many = many
        self._max_batch = max_batch
        self._max_bytes = max_bytes
        self._max_queue = max_queue
        self._waiting: deque[tuple[Request, asyncio.Future[Response]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def send(self, request: Request) -> Response:
        """Return the shard's answer."""
        if len(self._waiting) >= self._max_queue:
            raise Overloaded(
                f"{len(self._waiting)} requests wait for this shard; send it again after the "
                "time in Retry-After",
                retry_after_s=1,
            )
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                if not batch:
                    continue
                try:
                    responses = await self._call([request for request, _ in batch])
                except Exception as error:  # fails these requests, not those that wait
                    for _, answer in batch:
                        _fail(answer, error)
                    continue
                for (_, answer), response in zip(batch, responses, strict=True):
                    if not answer.done():  # else the client has gone
                        answer.set_result(response)
        finally:
            self._task = None

    def _take(self) -> list[tuple[Request, asyncio.Future[Response]]]:
        """Take what fits into one call off the queue, without what nobody waits for any more."""
        batch: list[tuple[Request, asyncio.Future[Response]]] = []
        size = 0
        while self._waiting and len(batch) < self._max_batch:
            request, answer = self._waiting[0]
            if answer.done():  # its time is over or the client has gone
                self._waiting.popleft()
                continue
            size += len(request.body) + _FRAME_BYTES * bool(batch)
            if batch and size > self._max_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _call(self, requests: list[Request]) -> list[Response]:
        try:
            sent = [_shifted(request, -time.monotonic()) for request in requests]
            return _decode_responses(await self._many(_encode_requests(sent)))
        except RoveError as error:
            return [problem(error)] * len(requests)


def _shifted(request: Request, by_s: float) -> Request:
    """Return the request with its deadline on another clock."""
    if not request.deadline_s:
        return request
    return structs.replace(request, deadline_s=request.deadline_s + by_s)


def _fail(answer: asyncio.Future[Response], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


async def answer_many(payload: bytes, respond: Callable[[Request], Awaitable[Response]]) -> bytes:
    """Answer the requests of one call of a channel, at the shard."""
    now_s = time.monotonic()
    requests = [_shifted(request, now_s) for request in _decode_requests(payload)]
    answers = await asyncio.gather(*map(respond, requests), return_exceptions=True)
    return _encode_requests([_response(answer) for answer in answers])


def _response(answer: Response | BaseException) -> Response:
    if isinstance(answer, Response):
        return answer
    if not isinstance(answer, Exception):
        raise answer
    return problem(RoveError("the shard failed on this request; see its log"))
