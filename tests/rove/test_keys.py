"""API keys: what is kept of them, who may do what, how often; and the command that makes them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from rove.access import ROLES, Key, KeyRing, Role, TokenBucket, may, new_key, print_keys, read_keys
from rove.config import Config
from rove.errors import ConfigError
from rove.keys import load_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make() -> tuple[str, Key]:
    return new_key("shop", "write", NOW, bytes(range(38)))


def test_a_key_is_found_by_its_text_only() -> None:
    text, key = make()
    ring = KeyRing([key])
    assert re.fullmatch(r"rove_[0-9a-f]{12}_[0-9a-f]{64}", text)
    assert ring.find(text) is key
    other = text[:-1] + ("1" if text[-1] != "1" else "2")
    for wrong in (other, text[:-1], text + "0", text.upper(), "", "rove", text.replace("_", "-")):
        assert ring.find(wrong) is None
    assert KeyRing().find(text) is None


def test_the_secret_is_not_kept() -> None:
    text, key = make()
    secret = text.rpartition("_")[2]
    content = print_keys([key])
    assert secret.encode() not in content
    assert read_keys(content, "k") == (key,)


def test_a_key_ends_when_it_expires_or_is_revoked() -> None:
    _, key = new_key("a", "read", NOW, bytes(38), expires=NOW + timedelta(days=1))
    assert key.ended(NOW) is None
    assert key.ended(NOW + timedelta(days=1)) == "expired at 2026-01-02 00:00 UTC"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", {"read", "write", "admin"})],
)
def test_a_role_may_what_lower_ones_may(role: Role, allowed: set[str]) -> None:
    assert {needed for needed in ROLES if may(role, needed)} == allowed


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    """2/s with a burst of 3: three at once; the next token comes after 1/2 s."""
    bucket = TokenBucket(2.0, 3, 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(10.25) == pytest.approx(0.25)
    assert bucket.take(10.5) == 0.0
    assert [bucket.take(1e6) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.0) == 0.5  # a clock that goes back gives nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "k: not a file of keys: Input data was truncated"),
        (b"\xff", "k: not a file of keys"),
        (b'{"kays": []}', "unknown field `kays`"),
        (b'{"keys": [{"id": "../a"}]}', "matching regex"),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_keys(content, "k")


def test_two_keys_of_one_id_are_refused() -> None:
    _, key = make()
    with pytest.raises(ConfigError, match=re.escape("two keys have one id")):
        read_keys(print_keys([key, key]), "k")


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("make a first key with `rove keys new`")):
        load_keys(tmp_path / "keys.json")


def keys(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `rove keys ACTION CONFIG ...` with its file in `folder`."""
    config = folder / "rove.yaml"
    tree = {"name": "t", "access": {"keys": str(folder / "secret" / "keys.json")}}
    config.write_text(yaml.safe_dump(tree), "utf-8")
    action, *others = arguments
    return subprocess.run(
        [sys.executable, "-m", "rove", "keys", action, str(config), *others],
        capture_output=True,
        text=True,
        timeout=60.0,
    )


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """Two of one name may be valid at once, as when one replaces the other."""
    path = tmp_path / "secret" / "keys.json"
    texts = [
        keys(tmp_path, "new", "web", "--role", "write", *more).stdout.strip()
        for more in ((), ("--expires-days", "90", "--rate-per-s", "5", "--burst", "7"))
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = load_keys(path)
    ring = KeyRing([first, second])
    assert [ring.find(text) for text in texts] == [first, second]
    assert (second.rate_per_s, second.burst) == (5.0, 7)
    assert second.expires is not None and second.expires - second.created == timedelta(days=90)
    done = keys(tmp_path, "revoke", first.id)
    assert f"{first.id} (web) is revoked" in done.stdout
    listing = keys(tmp_path, "list").stdout.splitlines()
    assert "web: was revoked at" in listing[0]
    assert f"web: until {second.expires:%Y-%m-%d}" in listing[1]
    assert all(text.rpartition("_")[2] not in done.stdout for text in texts)
    assert sorted(os.listdir(path.parent)) == ["keys.json", "keys.json.lock"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list",), "cannot be read"),
        (("revoke", "abc"), "cannot be read"),
        (("new", "web", "--role", "write", "--expires-days", "nan"), "--expires-days must be"),
        (("new", "web", "--role", "write", "--burst", "0"), "--burst must be at least 1, got 0"),
        (("new", "", "--role", "write"), "a key's name has 1 to 64 characters"),
        (("new", "web", "access.keys=null", "--role", "read"), "access.keys is missing"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = keys(tmp_path, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("rove keys: ") and message in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_server_that_only_this_machine_reaches_needs_no_keys(host: str) -> None:
    assert Config.parse({"name": "a", "serving": {"host": host}}).access.keys is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "shop.example", ""])
def test_a_server_that_others_reach_needs_keys_or_a_word(host: str) -> None:
    tree = {"name": "a", "serving": {"host": host}}
    with pytest.raises(ConfigError, match=re.escape("name a file of keys there")):
        Config.parse(tree)
    assert Config.parse({**tree, "access": {"open": True}}).access.open
    assert Config.parse({**tree, "access": {"keys": "keys.json"}}).access.keys is not None


def test_limits_without_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("name a file of keys in keys")):
        Config.parse({"name": "a", "access": {"burst": 5}})
