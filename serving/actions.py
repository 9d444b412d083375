"""Keeps the catalogue as the actions of `serving.personalizer` say.

- An item that the catalogue does not have as its action says is put there, once: what a gateway has
  put is remembered.
- Changed features are taken in at most once in `_REFRESH_S`, each being a new version of the item.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from urllib.parse import quote

import msgspec

from rove.catalogue import Item
from serving.http import Handler, Request

_REFRESH_S = 60.0
_REMEMBERED = 100_000
_read_item = msgspec.json.Decoder(Item).decode


class Actions:
    """The actions of one gateway."""

    def __init__(
        self,
        find: Handler,
        put: Callable[[Sequence[Item]], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._put = put
        self._clock = clock
        self._known: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def ensure(self, items: Sequence[Item]) -> None:
        """Return once the catalogue has the items."""
        if all(map(self._is_known, items)):
            return
        async with self._lock:
            new = [item for item in items if not self._is_known(item)]
            found = await asyncio.gather(*map(self._look_up, new))
            pairs = zip(new, found, strict=True)
            await self._put([item for item, old in pairs if not _is_same(item, old)])
            self._remember(new)

    async def renew(self, items: Sequence[Item]) -> None:
        """Put items again: a shard lacks them after all."""
        async with self._lock:
            await self._put(items)
            self._remember(items)

    def _remember(self, items: Sequence[Item]) -> None:
        for item in items:
            self._known[item.item_id] = _digest(item), self._clock()
            self._known.move_to_end(item.item_id)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _is_known(self, item: Item) -> bool:
        known = self._known.get(item.item_id)
        if known is None:
            return False
        return self._clock() < known[1] + _REFRESH_S or known[0] == _digest(item)

    async def _look_up(self, item: Item) -> Item | None:
        path = f"/v1/items/{quote(item.item_id, safe='')}"
        answer = await self._find(Request("GET", path, params=(item.item_id,)))
        return _read_item(answer.body) if answer.status == 200 else None


def _digest(item: Item) -> bytes:
    return blake2b(item.text.encode(), digest_size=16).digest()


def _is_same(item: Item, found: Item | None) -> bool:
    """Return whether the catalogue's item is as an action says, or the action says nothing."""
    return found is not None and (found == item or not item.description)
