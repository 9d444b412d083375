"""API keys: who may call, as what, until when and how often.

A key reads `rove_<id>_<secret>`; the file of keys keeps the SHA-256 of the secret. That is enough,
and what a slow, salted hash adds is not needed: such hashes make guessing dear where people choose
what is guessed. This secret is 256 random bits, and no one tries 2^255 of them at any speed.

- Roles are ordered: what read may do, write may too, and what write may do, admin may too.
- A key is found by its id, which is no secret; the digests are compared in constant time.
- Nothing here reads a file, a clock or random bytes; they are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from rove.errors import ConfigError

Role = Literal["read", "write", "admin"]
Time = Annotated[datetime, Meta(tz=True)]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
ID_BYTES = 6
SECRET_BYTES = 32
_KEY = re.compile(r"rove_([0-9a-f]{12})_([0-9a-f]{64})")
_NO_DIGEST = "0" * 64


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of a key: everything but its secret."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    """Whose it is; two keys of one name may be valid at once, while one replaces the other."""
    role: Role
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    """Of the secret, in hexadecimal."""
    created: Time
    expires: Time | None = None
    revoked: Time | None = None
    rate_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Requests per second, instead of `access.rate_per_s`."""
    burst: Annotated[int, Meta(ge=1)] | None = None
    """Requests at once, instead of `access.burst`."""

    def ended(self, now: datetime) -> str | None:
        """Return why the key is no longer valid; None while it is."""
        if self.revoked is not None:
            return f"was revoked at {utc(self.revoked)}"
        if self.expires is not None and now >= self.expires:
            return f"expired at {utc(self.expires)}"
        return None


class KeyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a file of keys."""

    keys: tuple[Key, ...] = ()


def new_key(
    name: str,
    role: Role,
    created: datetime,
    random: bytes,
    *,
    expires: datetime | None = None,
    rate_per_s: float | None = None,
    burst: int | None = None,
) -> tuple[str, Key]:
    """Return the text of a new key and what is kept of it.

    `random` are 38 bytes of the system's generator: 6 of the id, 32 of the secret.
    """
    assert len(random) == ID_BYTES + SECRET_BYTES, len(random)
    key_id, secret = random[:ID_BYTES].hex(), random[ID_BYTES:].hex()
    key = Key(
        id=key_id,
        name=name,
        role=role,
        sha256=digest(secret),
        created=created,
        expires=expires,
        rate_per_s=rate_per_s,
        burst=burst,
    )
    return f"rove_{key_id}_{secret}", key


def utc(time: datetime) -> str:
    """Return `time` to the minute, for people."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def digest(secret: str) -> str:
    """Return what is kept of a secret."""
    return sha256(secret.encode()).hexdigest()


def read_keys(content: bytes, source: str) -> tuple[Key, ...]:
    """Return the keys of a file's content; raise `ConfigError` when it cannot be used."""
    try:
        keys = msgspec.json.decode(content, type=KeyFile).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: not a file of keys: {error}; see `rove keys`") from None
    if len({key.id for key in keys}) < len(keys):
        raise ConfigError(f"{source}: two keys have one id; remove one of them")
    return keys


def print_keys(keys: Sequence[Key]) -> bytes:
    """Return the content of a file with `keys`."""
    return msgspec.json.format(msgspec.json.encode(KeyFile(keys=tuple(keys)))) + b"\n"


class KeyRing:
    """The keys, by their id."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def find(self, text: str) -> Key | None:
        """Return the key that `text` is, valid or ended; None when there is none."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key = self._keys.get(match[1])
        kept = _NO_DIGEST if key is None else key.sha256
        return key if compare_digest(digest(match[2]), kept) else None


def may(role: Role, needed: Role) -> bool:
    """Return whether `role` may do what needs `needed`."""
    return ROLES.index(role) >= ROLES.index(needed)


class TokenBucket:
    """At most `burst` requests at once and `rate_per_s` in the long run.

    The bucket holds up to `burst` tokens, gains `rate_per_s` a second, and a request takes one.
    """

    def __init__(self, rate_per_s: float, burst: int, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = float(burst)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        gained = max(0.0, now_s - self._at_s) * self.rate_per_s
        self._tokens = min(float(self.burst), self._tokens + gained)
        self._at_s = now_s
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate_per_s
