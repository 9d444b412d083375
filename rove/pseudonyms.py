"""Users' ids as keyed pseudonyms: what the ledger, logs and training see of who somebody is.

    pseudonym = "~" + hex(p) + hex(s)      p = HMAC-SHA256(key, "user:" + id), the first 20 bytes
                                           s = HMAC-SHA256(key, "seal:" + hex(p)), the first 6

- The same id and key give the same pseudonym, so a person is found by the real id; without the key
  nobody can go through a list of ids.
- `of` leaves a pseudonym as it is, so that what came out of the ledger may be given back. The seal
  tells it from an id that only looks like one.
- `mark` goes into the ledger's `meta`: it says whether ids are pseudonyms, and by which key, of
  which it tells nothing.
- Which shard owns a user is computed from the real id, before this.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping

from rove.config import PrivacySection
from rove.errors import ConfigError

KEY_VARIABLE = "ROVE_PSEUDONYM_KEY"
MIN_KEY_BYTES = 32
PLAIN = "plain"
"""The mark of a ledger with the ids as they are."""
_PSEUDONYM = re.compile(r"~([0-9a-f]{40})([0-9a-f]{12})")


class Pseudonyms:
    """Pseudonyms by one key; without a key, ids stay as they are."""

    mark: str

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self.mark = PLAIN if key is None else f"hmac-sha256:{self._digest('mark:')[:16]}"

    @classmethod
    def of_config(
        cls, section: PrivacySection, environment: Mapping[str, str] = os.environ
    ) -> Pseudonyms:
        """Read the key from `key_file`, or else from the environment, if there are to be any."""
        return cls(_key(section, environment) if section.pseudonymise else None)

    def of(self, user_id: str) -> str:
        """Return what is stored in place of an id."""
        if self._key is None:
            return user_id
        match = _PSEUDONYM.fullmatch(user_id)
        if match is not None and hmac.compare_digest(match[2], self._seal(match[1])):
            return user_id
        body = self._digest("user:" + user_id)[:40]
        return f"~{body}{self._seal(body)}"

    def _seal(self, body: str) -> str:
        return self._digest("seal:" + body)[:12]

    def _digest(self, text: str) -> str:
        assert self._key is not None
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


UNCHANGED = Pseudonyms(None)
"""Leaves ids as they are."""


def check_user_ids(name: str, found: str, wanted: str) -> None:
    """Refuse a ledger, called `name`, whose mark is not the one that is wanted."""
    if found == wanted:
        return
    if found == PLAIN:
        problem = "has users' ids as they are, and privacy.pseudonymise is true; set it to false, "
        problem += "or load the history into a new store.url"
    elif wanted == PLAIN:
        problem = "has pseudonyms, and privacy.pseudonymise is false; set it to true, with the key "
        problem += "it was written with"
    else:
        problem = "has pseudonyms by another key; give it back the key it was written with"
    raise ConfigError(f"{name} {problem}")


def _key(section: PrivacySection, environment: Mapping[str, str]) -> bytes:
    if section.key_file is not None:
        where = f"privacy.key_file {section.key_file}"
        try:
            key = section.key_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    else:
        where = KEY_VARIABLE
        key = environment.get(KEY_VARIABLE, "").strip().encode()
        if not key:
            raise ConfigError(
                "privacy.pseudonymise needs a key: name a file in privacy.key_file or set "
                f"{KEY_VARIABLE}; `openssl rand -hex 32` makes one. Without the same key nobody "
                "is found again, so keep a copy apart from the ledger"
            )
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"{where}: the key has {len(key)} bytes, it needs at least {MIN_KEY_BYTES}; "
            "`openssl rand -hex 32` makes one"
        )
    return bytes(key)
