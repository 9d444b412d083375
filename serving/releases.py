"""The gateway's routes for releases: which there are, and which is in service.

Shards follow the pointer when they are told to sync, or by themselves soon after; a request is
answered by the release that its shard is at. An id is only ever compared with those there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from rove.errors import Conflict, ReleaseError, shown
from rove.release import Release, current, described, promote
from rove.release_pointer import check_known, roll_back
from serving.http import Request, Response
from serving.schemas import Releases, ReleaseState

_encode = msgspec.json.Encoder().encode


class ReleaseApi:
    """The routes of releases."""

    def __init__(self, releases: Path, sync: Callable[[], Awaitable[None]]) -> None:
        self._releases = releases
        self._sync = sync

    async def get_releases(self, request: Request) -> Response:
        """Return all releases, the newest first."""
        return Response(200, _encode(Releases(releases=await asyncio.to_thread(self._states))))

    async def promote_release(self, request: Request) -> Response:
        """Put a release into service."""
        (release_id,) = request.params
        await asyncio.to_thread(self._promote, release_id)
        return await self._changed()

    async def roll_back_release(self, request: Request) -> Response:
        """Take the release in service out of it; the one before it is in service again."""
        (release_id,) = request.params
        await asyncio.to_thread(roll_back, self._releases, release_id)
        return await self._changed()

    def _promote(self, release_id: str) -> None:
        check_known(self._releases, release_id)
        try:
            Release.open(self._releases / release_id)
        except ReleaseError as error:
            raise Conflict(
                f"release {shown(release_id)} cannot be put into service: {error.detail}"
            ) from error
        promote(self._releases, release_id)

    async def _changed(self) -> Response:
        await self._sync()
        states = await asyncio.to_thread(self._states)
        return Response(200, _encode(next(state for state in states if state.in_service)))

    def _states(self) -> list[ReleaseState]:
        in_service = current(self._releases).name
        return [
            ReleaseState(
                id=one["id"],
                created_at=str(one["created_at"]),
                encoder=one["encoder"],
                num_items=one.get("num_items", 0),
                in_service=one["id"] == in_service,
                metrics=one["metrics"],
            )
            for one in described(self._releases)
        ]
