"""With pseudonyms nobody is named in the store or the logs, and callers notice nothing."""

from __future__ import annotations

import logging
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rove.config import PrivacySection, RewardSection, StoreSection
from rove.errors import ConfigError, NotFound
from rove.ledger.ledger import Ledger
from rove.ledger.load import load_history
from rove.ledger.scan import all_interactions
from rove.pseudonyms import KEY_VARIABLE, PLAIN, Pseudonyms
from rove.rewards import RewardMap
from rove.sharding import shard_of
from tests.worlds import Shop, did, observe, rank, refusal, request

KEY = "0123456789abcdef" * 4
NAMES = Pseudonyms(KEY.encode())
WHO = "SECRETIVE"


@pytest.fixture
def privacy(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_text(KEY + "\n")
    return {"pseudonymise": True, "key_file": str(tmp_path / "key")}


@pytest.fixture
def shop(tmp_path: Path, store: StoreSection, privacy: dict[str, Any]) -> Shop:
    return Shop(tmp_path / "shop", store=store, privacy=privacy)


def test_a_pseudonym_depends_on_the_id_and_the_key_and_stays_what_it_is() -> None:
    pseudonym = NAMES.of(WHO)
    assert re.fullmatch("~[0-9a-f]{52}", pseudonym)
    assert NAMES.of(WHO) == pseudonym == NAMES.of(pseudonym)
    others = {NAMES.of("other"), Pseudonyms(b"x" * 32).of(WHO), Pseudonyms(b"x" * 32).of(pseudonym)}
    assert len(others | {pseudonym}) == 4
    forged = pseudonym[:-1] + ("0" if pseudonym[-1] != "0" else "1")
    assert NAMES.of(forged) != forged
    assert Pseudonyms(None).of(WHO) == WHO and Pseudonyms(None).mark == PLAIN


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    by_file = Pseudonyms.of_config(PrivacySection(pseudonymise=True, key_file=tmp_path / "key"), {})
    by_name = Pseudonyms.of_config(PrivacySection(pseudonymise=True), {KEY_VARIABLE: KEY})
    assert by_file.mark == by_name.mark == NAMES.mark
    assert KEY not in NAMES.mark
    assert Pseudonyms.of_config(PrivacySection(), {KEY_VARIABLE: KEY}).mark == PLAIN


def test_a_key_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"or set {KEY_VARIABLE}; `openssl rand")):
        Pseudonyms.of_config(PrivacySection(pseudonymise=True), {})
    with pytest.raises(ConfigError, match=re.escape("the key has 5 bytes, it needs at least 32")):
        Pseudonyms.of_config(PrivacySection(pseudonymise=True), {KEY_VARIABLE: "short"})
    missing = PrivacySection(pseudonymise=True, key_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=re.escape("cannot be read: No such file")):
        Pseudonyms.of_config(missing, {KEY_VARIABLE: KEY})


def test_callers_go_on_using_the_ids(shop: Shop) -> None:
    engine = shop.engine()
    wanted = request(WHO, "e1", defer_activation=True)
    decision = rank(engine, wanted)
    assert decision.user_id == WHO
    assert rank(engine, wanted) == decision
    assert engine.activate("e1", WHO).user_id == WHO
    assert engine.decision("e1", WHO).decision.user_id == WHO
    assert engine.decision("e1").decision.user_id == NAMES.of(WHO)
    with pytest.raises(NotFound, match=re.escape("this user has no decision 'e1'")):
        engine.decision("e1", "other")
    item_id = decision.slots[0].item_id
    assert observe(engine, did("i1", WHO, item_id, event_id="e1")) == ["accepted"]
    assert observe(engine, did("i2", NAMES.of(WHO), item_id, event_id="e1")) == ["accepted"]
    profile, export = engine.user(WHO), engine.export(WHO)
    assert (profile.user_id, profile.num_interactions) == (WHO, 2)
    assert {one.interaction.user_id for one in export.interactions} == {WHO} == {export.user_id}
    assert export.profile == profile and export.decisions[0].decision.user_id == WHO
    receipt = engine.erase(WHO)
    assert (receipt.user_id, receipt.num_interactions) == (WHO, 2)
    assert engine.erasure(receipt.erasure_id, WHO) == receipt
    with pytest.raises(NotFound, match=re.escape(f"nothing is stored of user '{WHO}'")):
        engine.user(WHO)


def test_an_id_that_cannot_be_used_is_still_refused(shop: Shop) -> None:
    engine = shop.engine()
    assert "user_id" in refusal(engine, request("a\nb")).detail
    assert observe(engine, did("i1", "")) == ["rejected"]


def history(user_id: str) -> pa.Table:
    return pa.table(
        {
            "user_id": [user_id, "other"],
            "item_id": ["item-1", "item-2"],
            "type": ["purchase"] * 2,
            "timestamp": [1.7e9, 1.7e9],
        }
    )


def test_the_raw_id_is_nowhere_in_the_store_or_the_logs(
    tmp_path: Path,
    sqlite_store: StoreSection,
    privacy: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    rewards = RewardMap.from_config(RewardSection())
    load_history(sqlite_store, 1, [history(WHO)], rewards, NAMES)
    engine = Shop(tmp_path / "shop", store=sqlite_store, privacy=privacy).engine()
    rank(engine, request(WHO, "e1", context={"device": "phone"}))
    observe(engine, did("i1", WHO), did("i2", WHO, "item-9", event_id="e1"))
    assert engine.user(WHO).num_interactions == 3  # one was loaded
    engine.sync()
    folder = Path(sqlite_store.url.removeprefix("sqlite:///"))
    assert any(path.name.endswith("-wal") for path in folder.iterdir())
    while_open = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    engine.close()
    closed = b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
    for content in (while_open, closed):
        assert WHO.encode() not in content
        assert NAMES.of(WHO).encode() in content
    assert WHO not in caplog.text
    read = [user for part in all_interactions(sqlite_store) for user in part["user_id"].to_pylist()]
    assert set(read) == {NAMES.of(WHO), NAMES.of("other")}


def test_a_history_is_loaded_where_the_real_id_belongs(store: StoreSection) -> None:
    rewards = RewardMap.from_config(RewardSection())
    assert load_history(store, 3, [history(WHO)], rewards, NAMES).num_stored == 2
    assert load_history(store, 3, [history(WHO)], rewards, NAMES).num_stored == 0
    owner = shard_of(WHO, 3)
    with closing(Ledger.open(store, owner, 3, user_ids=NAMES.mark)) as ledger:
        assert ledger.history(NAMES.of(WHO)).item_ids == ["item-1"]


def test_a_ledger_that_names_users_otherwise_is_refused(store: StoreSection) -> None:
    rewards = RewardMap.from_config(RewardSection())
    load_history(store, 1, [history(WHO)], rewards, NAMES)
    with pytest.raises(ConfigError, match=re.escape("has pseudonyms, and privacy.pseudonymise is")):
        load_history(store, 1, [history(WHO)], rewards)
    with pytest.raises(ConfigError, match=re.escape("has pseudonyms by another key")):
        load_history(store, 1, [history(WHO)], rewards, Pseudonyms(b"x" * 32))


def test_a_ledger_with_plain_ids_takes_no_pseudonyms(store: StoreSection) -> None:
    rewards = RewardMap.from_config(RewardSection())
    load_history(store, 1, [history(WHO)], rewards)
    with pytest.raises(ConfigError, match=re.escape("has users' ids as they are, and privacy.")):
        load_history(store, 1, [history(WHO)], rewards, NAMES)


def test_an_empty_ledger_that_says_nothing_takes_either(store: StoreSection) -> None:
    Ledger.open(store, 0, 1).close()
    Ledger.open(store, 0, 1, user_ids=NAMES.mark).close()
    with pytest.raises(ConfigError, match=re.escape("has pseudonyms, and privacy.pseudonymise is")):
        Ledger.open(store, 0, 1, user_ids=PLAIN)
