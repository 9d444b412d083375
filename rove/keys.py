"""`rove keys new|list|revoke CONFIG`: the file of API keys that `access.keys` names.

Servers read the file again within a second of a change, so nothing has to be restarted. To rotate
a key: make a new one of the same name, give it to whoever uses it, then revoke the old one.
"""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import structs

from rove.access import ID_BYTES, SECRET_BYTES, Key, new_key, print_keys, read_keys, utc
from rove.config import Config
from rove.errors import ConfigError, InvalidInput, NotFound, shown


def run(options: argparse.Namespace) -> int:
    """Do what `rove keys` was asked for; return the exit status."""
    path = Config.load(options.config, options.overrides).access.keys
    if path is None:
        raise ConfigError(f"{options.config}: access.keys is missing; name a file for the keys")
    if options.action == "new":
        return _new(path, options)
    if options.action == "revoke":
        return _revoke(path, options.key)
    return _list(path)


def load_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys in the file; raise `ConfigError` when it cannot be used."""
    try:
        return read_keys(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(
            f"access.keys: {path} cannot be read: {error.strerror}; make a first key with "
            "`rove keys new`"
        ) from None


def _new(path: Path, options: argparse.Namespace) -> int:
    now = datetime.now(UTC).replace(microsecond=0)
    days: float | None = options.expires_days
    if not 0 < len(options.name) <= 64:
        raise InvalidInput(f"a key's name has 1 to 64 characters, got {shown(options.name)}")
    for name, value in (("expires-days", days), ("rate-per-s", options.rate_per_s)):
        if value is not None and not 0 < value <= 1e6:
            raise InvalidInput(f"--{name} must be above 0 and at most 1e6, got {value}")
    if options.burst is not None and options.burst < 1:
        raise InvalidInput(f"--burst must be at least 1, got {options.burst}")
    text, key = new_key(
        options.name,
        options.role,
        now,
        os.urandom(ID_BYTES + SECRET_BYTES),
        expires=None if days is None else now + timedelta(days=days),
        rate_per_s=options.rate_per_s,
        burst=options.burst,
    )
    with _locked(path):
        keys = load_keys(path) if path.exists() else ()
        _write(path, (*keys, key))
    print(text)
    return 0


def _revoke(path: Path, key_id: str) -> int:
    now = datetime.now(UTC).replace(microsecond=0)
    with _locked(path):
        keys = load_keys(path)
        found = [key for key in keys if key.id == key_id]
        if not found:
            raise NotFound(f"no key has the id {shown(key_id)}; `rove keys list` shows the ids")
        if found[0].revoked is None:
            revoked = structs.replace(found[0], revoked=now)
            _write(path, tuple(revoked if key.id == key_id else key for key in keys))
    print(f"{key_id} ({found[0].name}) is revoked; servers refuse it within a second")
    return 0


def _list(path: Path) -> int:
    now = datetime.now(UTC)
    for key in load_keys(path):
        state = key.ended(now) or (
            "does not expire" if key.expires is None else f"until {utc(key.expires)}"
        )
        print(f"{key.id}  {key.role:<5}  {key.created:%Y-%m-%d}  {key.name}: {state}")
    return 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold off other commands that change the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Put the keys in place at once, so that a server never reads a part of them."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(print_keys(keys))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
