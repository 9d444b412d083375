"""Who may call which route, and how often: the check before a body is read.

- Without `access.keys` everyone may do everything; else a request shows its key as
  `Authorization: Bearer`, here at the gateway and there at each shard, both from the same file.
- The file is looked at once a second at most and read again when it changed. One that cannot be
  read then is logged, and the keys known stay in force.
- The calls of a gateway to a shard show a token that the shard made for its own life; the gateway
  asks for it by handle, so Ray's own authentication guards it, and it is kept nowhere.
- Rates are counted in each process by itself: a key may call every gateway replica and every shard
  at its rate.
"""

from __future__ import annotations

import logging
import secrets
import time
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import Literal

from rove.access import Key, KeyRing, TokenBucket, may
from rove.config import AccessSection
from rove.errors import ConfigError, Overloaded
from rove.keys import load_keys
from serving.problems import Forbidden, Unauthorized

Access = Literal["open", "read", "write", "admin", "internal"]
"""Who may call a route: anyone, a key of at least that role, or the gateway."""
_LOOK_S = 1.0
_BEARER = "bearer "
logger = logging.getLogger(__name__)


class Guard:
    """The keys of one process and how much each has called it."""

    def __init__(self, section: AccessSection) -> None:
        self._section = section
        self._file = None if section.keys is None else _KeyFile(section.keys)
        self._buckets: dict[str, TokenBucket] = {}
        self.internal_token = secrets.token_urlsafe(32)

    def admit(self, access: Access, authorization: str | None) -> None:
        """Return when the request may go on; else raise 401, 403 or 429."""
        if access == "internal":
            shown = (authorization or "").encode()
            if not compare_digest(shown, f"Bearer {self.internal_token}".encode()):
                raise Unauthorized("only a gateway may call this path; use the others of /docs")
            return
        if access == "open" or self._file is None:
            return
        key = self._known(authorization, self._file.keys(time.monotonic()))
        self._count(key)
        if not may(key.role, access):
            raise Forbidden(
                f"the key {key.id} may {key.role}, this needs {access}; use a key with that role",
                role=key.role,
                needed=access,
            )

    def _known(self, authorization: str | None, keys: KeyRing) -> Key:
        if authorization is None:
            raise Unauthorized("an API key is needed; send it as Authorization: Bearer rove_...")
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise Unauthorized("the Authorization header is not of the form Bearer rove_...")
        key = keys.find(authorization[len(_BEARER) :].strip())
        if key is None:
            raise Unauthorized("there is no such API key; check that all of it was sent")
        if ended := key.ended(datetime.now(UTC)):
            raise Unauthorized(f"the API key {key.id} {ended}; ask for a new one")
        return key

    def _count(self, key: Key) -> None:
        rate_per_s = key.rate_per_s or self._section.rate_per_s
        if rate_per_s is None:
            return
        burst = key.burst or self._section.burst or max(1, round(rate_per_s))
        now_s = time.monotonic()
        bucket = self._buckets.get(key.id)
        if bucket is None or (bucket.rate_per_s, bucket.burst) != (rate_per_s, burst):
            bucket = self._buckets[key.id] = TokenBucket(rate_per_s, burst, now_s)
        wait_s = bucket.take(now_s)
        if wait_s:
            raise Overloaded(
                f"the key {key.id} may call {rate_per_s:g} times a second, {burst} at once; "
                "send it again after the time in Retry-After",
                retry_after_s=wait_s,
            )


class _KeyFile:
    """The keys in a file, as of at most a second ago."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._ring = KeyRing(load_keys(path))
        self._next_s = time.monotonic() + _LOOK_S

    def keys(self, now_s: float) -> KeyRing:
        """Return the keys in force."""
        if now_s >= self._next_s:
            self._next_s = now_s + _LOOK_S
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._read()
        return self._ring

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> None:
        try:
            self._ring = KeyRing(load_keys(self._path))
        except ConfigError as error:
            logger.error("the keys known before stay in force: %s", error)
