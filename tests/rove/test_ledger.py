"""The ledger by itself: what goes in comes out, once, and in order."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from rove.config import StoreSection
from rove.errors import ConfigError, Conflict, NotFound, StoreUnavailable
from rove.events import Decision, Explanation, Interaction, InteractionType, Slot
from rove.ledger.ledger import Erased, Ledger, Statistics, StoredInteraction
from rove.ledger.schema import decisions, interactions


def impatient(store: StoreSection) -> StoreSection:
    return store.model_copy(update={"busy_timeout_s": 0.1})


def decision(event_id: str, user_id: str = "ann") -> Decision:
    return Decision(
        event_id=event_id,
        user_id=user_id,
        policy="shop",
        policy_version="1",
        release="r1",
        seed=2**64 - 1,
        request_digest="aa",
        candidates_digest="bb",
        num_candidates=3,
        slots=[
            Slot(slot=0, item_id="apple", score=0.6, propensity=1 / 3, reason="explore"),
            Slot(
                slot=1,
                item_id="pear",
                score=0.1,
                propensity=1.0,
                reason="exploit",
                explanation=Explanation(item_mean=0.1, prior=0.2, history={"pear": 0.3}, other=0.0),
            ),
        ],
        context={"device": "phone", "rain": True, "age": 3.5, "note": None},
        created_at=100.0,
        expires_at=200.25,
        activated_at=None,
    )


def stored(
    interaction_id: str,
    user_id: str = "ann",
    item_id: str = "apple",
    timestamp: float = 1.0,
    event_id: str | None = None,
) -> StoredInteraction:
    return StoredInteraction(
        interaction=Interaction(
            interaction_id=interaction_id,
            user_id=user_id,
            item_id=item_id,
            type=InteractionType.RATING,
            value=4.0,
            text="fresh \N{GREEN APPLE}",
            timestamp=timestamp,
            event_id=event_id,
            slot=None if event_id is None else 1,
        ),
        reward=0.75,
        status="accepted",
        received_at=timestamp + 1,
        session="visit",
    )


def statistics(item_ids: list[str], weight: list[float]) -> Statistics:
    return Statistics(
        item_ids=item_ids,
        weight=np.array(weight),
        total=np.array(weight) / 2,
        as_of=np.full(len(weight), 9.0),
    )


def test_a_decision_comes_back_as_it_went_in(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1"), decision("e2")])
        assert transaction.decisions(["e2"]) == {"e2": decision("e2")}
    assert ledger.decisions(["e1", "unknown", "e1"]) == {"e1": decision("e1")}
    assert ledger.decisions([]) == {}


def test_texts_and_numbers_at_the_edge_come_back_as_they_went_in(store: StoreSection) -> None:
    """NUL in JSON, quotes, braces and backslashes, the smallest and largest numbers."""
    strange = 'a\0b "c" {d, NULL} \\ \N{GREEN APPLE} \n'
    odd = structs.replace(
        decision("e1"), context={strange: strange}, created_at=5e-324, expires_at=1.8e308 / 1.01
    )
    text = strange.replace("\0", "")
    answer = stored("i1", user_id='{"ann", NULL}', event_id="e1")
    answer = structs.replace(answer, interaction=structs.replace(answer.interaction, text=text))
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_decisions([odd], {"e1": bytes(range(256))})
        transaction.add_interactions([answer])
    assert ledger.decisions(["e1"]) == {"e1": odd}
    assert ledger.interactions_of("e1") == [answer]
    (shown,) = ledger.shown_to("ann")
    assert shown.context_vector == bytes(range(256))


def test_an_interaction_comes_back_as_it_went_in(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    answer, other = stored("i1", event_id="e1"), stored("i2")
    with ledger.transaction() as transaction:
        transaction.add_interactions([answer, other])
    assert ledger.interactions_of("e1") == [answer]
    assert ledger.interactions_of("e2") == []


def test_history_is_ordered_by_time_then_arrival(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_interactions(
            [
                stored("i1", item_id="late", timestamp=5.0, event_id="e1"),
                stored("i2", item_id="early", timestamp=1.0),
                stored("i3", item_id="late too", timestamp=5.0),
                stored("i4", user_id="bob"),
            ]
        )
    history = ledger.history("ann")
    assert history.item_ids == ["early", "late", "late too"]
    assert history.timestamps.tolist() == [1.0, 5.0, 5.0]
    assert history.rewards.tolist() == [0.75, 0.75, 0.75]
    assert history.event_ids == [None, "e1", None]
    assert history.slots == [None, 1, None]
    assert history.types == ["rating"] * 3


def test_the_history_of_an_unknown_user_is_empty(store: StoreSection) -> None:
    history = Ledger.open(store, 0, 1).history("nobody")
    assert len(history) == 0
    assert history.rewards.dtype == np.float64


def test_everything_committed_is_there_after_reopening(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1")])
        transaction.add_interactions([stored("i1")])
        transaction.add_statistics("r1", statistics(["apple"], [1.0]))
    ledger.close()
    ledger = Ledger.open(store, 0, 1)
    assert ledger.decisions(["e1"]) == {"e1": decision("e1")}
    assert ledger.history("ann").item_ids == ["apple"]
    assert ledger.statistics("r1").revision == 1


def test_a_known_id_is_found_and_refused(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_interactions([stored("i1")])
        assert transaction.known_interactions(["i1", "i2"]) == {"i1"}
        assert transaction.known_interactions([]) == set()
    refused = pytest.raises(Conflict, match=re.escape("an id is stored already"))
    with refused, ledger.transaction() as transaction:
        transaction.add_interactions([stored("i2"), stored("i1")])
    assert len(ledger.history("ann")) == 1


def test_many_ids_can_be_asked_for_at_once(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    ids = [f"i{number}" for number in range(2_500)]
    with ledger.transaction() as transaction:
        transaction.add_interactions([stored(one) for one in ids])
        assert transaction.known_interactions([*ids, "other"]) == set(ids)


def test_nothing_is_stored_when_the_body_raises(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with pytest.raises(ZeroDivisionError), ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1")])
        transaction.add_interactions([stored("i1")])
        transaction.add_statistics("r1", statistics(["apple"], [1.0 / 0]))
    assert ledger.decisions(["e1"]) == {}
    with ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1")])
    assert ledger.decisions(["e1"]) == {"e1": decision("e1")}


def test_activation_is_noted(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1")])
        transaction.activate("e1", 123.5)
    assert ledger.decisions(["e1"])["e1"].activated_at == 123.5
    missing = pytest.raises(NotFound, match=re.escape("no decision 'e2'"))
    with missing, ledger.transaction() as transaction:
        transaction.activate("e2", 1.0)


def test_statistics_hold_the_latest_values(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    assert ledger.statistics("r1").revision == 0
    with ledger.transaction() as transaction:
        assert transaction.add_statistics("r1", statistics(["apple", "pear"], [1.0, 2.0])) == 1
    with ledger.transaction() as transaction:
        assert transaction.add_statistics("r1", statistics(["pear"], [5.0])) == 2
        assert transaction.add_statistics("r2", statistics(["fig"], [7.0])) == 1
    found = ledger.statistics("r1")
    assert dict(zip(found.item_ids, found.weight, strict=True)) == {"apple": 1.0, "pear": 5.0}
    assert dict(zip(found.item_ids, found.total, strict=True)) == {"apple": 0.5, "pear": 2.5}
    assert found.as_of.tolist() == [9.0, 9.0]
    assert found.revision == 2


def test_shards_see_what_is_new_of_each_other(store: StoreSection) -> None:
    first, second = Ledger.open(store, 0, 3), Ledger.open(store, 1, 3)
    assert first.statistics_of_others("r1", {}) == {}
    with second.transaction() as transaction:
        transaction.add_statistics("r1", statistics(["apple", "pear"], [1.0, 2.0]))
    with second.transaction() as transaction:
        transaction.add_statistics("r1", statistics(["pear"], [3.0]))
    everything = first.statistics_of_others("r1", {})
    assert list(everything) == [1]  # shard 2 does not exist yet
    assert sorted(everything[1].item_ids) == ["apple", "pear"]
    news = first.statistics_of_others("r1", {1: 1})[1]
    assert (news.item_ids, news.weight.tolist(), news.revision) == (["pear"], [3.0], 2)
    assert first.statistics_of_others("r1", {1: 2}) == {}
    third = Ledger.open(store, 2, 3)
    with third.transaction() as transaction:
        transaction.add_statistics("r1", statistics(["fig"], [1.0]))
    assert list(first.statistics_of_others("r1", {1: 2})) == [2]


def test_readers_see_commits_and_nothing_else(store: StoreSection) -> None:
    writer = Ledger.open(store, 0, 1)
    readers = [Ledger.open(store, 0, 1, read_only=True) for _ in range(2)]
    with writer.transaction() as transaction:
        transaction.add_interactions([stored("i1")])
        assert [len(reader.history("ann")) for reader in readers] == [0, 0]
    assert [len(reader.history("ann")) for reader in readers] == [1, 1]
    refused = pytest.raises(StoreUnavailable, match=re.escape("is open for reading only"))
    with refused, readers[0].transaction():
        pass


def test_reading_a_shard_that_does_not_exist_says_so(store: StoreSection) -> None:
    with pytest.raises(NotFound, match=re.escape("does not exist; load a history")):
        Ledger.open(store, 0, 1, read_only=True)


def test_a_second_writer_is_refused(store: StoreSection) -> None:
    store = impatient(store)
    first = Ledger.open(store, 0, 2)
    with pytest.raises(StoreUnavailable, match=re.escape("writes this shard; stop it first")):
        Ledger.open(store, 0, 2)
    Ledger.open(store, 1, 2).close()
    first.close()
    Ledger.open(store, 0, 2).close()


def test_a_writer_waits_for_the_one_before_to_leave(store: StoreSection) -> None:
    first = Ledger.open(store, 0, 1)
    leaving = threading.Timer(0.2, first.close)
    started = time.monotonic()
    leaving.start()
    Ledger.open(store, 0, 1)
    assert time.monotonic() - started >= 0.2


def test_a_forgotten_ledger_lets_the_next_writer_in(store: StoreSection) -> None:
    store = impatient(store)
    ledger = Ledger.open(store, 0, 1)
    del ledger
    Ledger.open(store, 0, 1)


def test_another_number_of_shards_is_refused(store: StoreSection) -> None:
    Ledger.open(store, 0, 4).close()
    message = "was written with 4 shards, not 8; set serving.shards to 4"
    for shard in (0, 7):  # 7 has no file of its own yet
        with pytest.raises(ConfigError, match=re.escape(message)):
            Ledger.open(store, shard, 8)


def test_a_shard_under_another_name_is_refused(sqlite_store: StoreSection, tmp_path: Path) -> None:
    Ledger.open(sqlite_store, 0, 4).close()
    folder = tmp_path / "ledger"
    (folder / "shard-0.sqlite").rename(folder / "shard-1.sqlite")
    with pytest.raises(StoreUnavailable, match=re.escape("holds shard 0, not 1")):
        Ledger.open(sqlite_store, 1, 4)


def test_erasure_deletes_the_rows_of_one_user(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)
    with ledger.transaction() as transaction:
        transaction.add_decisions([decision("e1"), decision("e2", user_id="bob")])
        transaction.add_interactions([stored("i1"), stored("i2"), stored("i3", user_id="bob")])
    with ledger.transaction() as transaction:
        erased = transaction.erase_user("ann")
        assert erased == Erased(num_decisions=1, num_interactions=2)
    assert ledger.decisions(["e1", "e2"]).keys() == {"e2"}
    assert len(ledger.history("ann")) == 0
    assert len(ledger.history("bob")) == 1
    with ledger.transaction() as transaction:
        assert transaction.erase_user("ann") == Erased(num_decisions=0, num_interactions=0)


def bytes_in(folder: Path, needle: bytes) -> int:
    return sum(path.read_bytes().count(needle) for path in folder.iterdir())


def write_users(ledger: Ledger, num_transactions: int) -> None:
    """Interleave one user among many, so that her rows are in pages that were split and merged."""
    draws = np.random.default_rng(7)
    for number in range(num_transactions):
        users = [
            "SECRETIVE" if draws.random() < 0.3 else f"user-{draws.integers(400)}"
            for _ in range(40)
        ]
        ids = [f"{draws.integers(2**62):x}-{number}-{user}" for user in users]
        with ledger.transaction() as transaction:
            transaction.add_decisions([decision(a, b) for a, b in zip(ids, users, strict=True)])
            transaction.add_interactions(
                [stored(a, b, event_id=a) for a, b in zip(ids, users, strict=True)]
            )


def test_erasure_leaves_no_copy_in_any_file(sqlite_store: StoreSection, tmp_path: Path) -> None:
    ledger = Ledger.open(sqlite_store, 0, 1)
    write_users(ledger, 60)
    assert bytes_in(tmp_path / "ledger", b"SECRETIVE") > 1000
    with ledger.transaction() as transaction:
        transaction.erase_user("SECRETIVE")
    assert bytes_in(tmp_path / "ledger", b"SECRETIVE") == 0
    assert bytes_in(tmp_path / "ledger", b"user-399") > 0


def test_erasure_is_completed_once_readers_are_gone(
    sqlite_store: StoreSection, tmp_path: Path
) -> None:
    ledger = Ledger.open(sqlite_store, 0, 1)
    write_users(ledger, 5)
    reader = Ledger.open(sqlite_store, 0, 1, read_only=True)
    query = interactions.select()
    with reader._database.reading() as connection, connection.execute(query) as rows:
        rows.fetchone()  # holds a snapshot
        with ledger.transaction() as transaction:
            transaction.erase_user("SECRETIVE")
        assert bytes_in(tmp_path / "ledger", b"SECRETIVE") > 0
    assert len(ledger.history("SECRETIVE")) == 0
    time.sleep(1.0)  # how long the ledger lets pass between attempts
    with ledger.transaction() as transaction:
        transaction.add_interactions([stored("i1")])
    assert bytes_in(tmp_path / "ledger", b"SECRETIVE") == 0


def test_erasure_is_completed_by_the_next_to_open(
    sqlite_store: StoreSection, tmp_path: Path
) -> None:
    ledger = Ledger.open(sqlite_store, 0, 1)
    write_users(ledger, 5)
    reader = Ledger.open(sqlite_store, 0, 1, read_only=True)
    query = interactions.select()
    with reader._database.reading() as connection, connection.execute(query) as rows:
        rows.fetchone()  # holds a snapshot
        with ledger.transaction() as transaction:
            transaction.erase_user("SECRETIVE")
        ledger.close()
    assert bytes_in(tmp_path / "ledger", b"SECRETIVE") > 0
    Ledger.open(sqlite_store, 0, 1)
    assert bytes_in(tmp_path / "ledger", b"SECRETIVE") == 0


def test_all_interactions_are_read_from_every_shard(store: StoreSection) -> None:
    ledgers = [Ledger.open(store, shard, 2) for shard in range(2)]
    for shard, ledger in enumerate(ledgers):
        with ledger.transaction() as transaction:
            transaction.add_interactions([stored(f"i{shard}", f"user-{shard}", event_id="e1")])
    batches = list(ledgers[1].all_interactions())
    assert [batch.to_pylist() for batch in batches] == [
        [
            {
                "user_id": f"user-{shard}",
                "item_id": "apple",
                "type": "rating",
                "reward": 0.75,
                "timestamp": 1.0,
                "event_id": "e1",
                "slot": 1,
                "session": "visit",
            }
        ]
        for shard in range(2)
    ]


def test_every_field_has_a_column() -> None:
    """A field that is added to a record needs a column, and so a new schema version."""
    assert set(decisions.columns.keys()) - {"context_vector", "beside"} == set(
        Decision.__struct_fields__
    )
    kept = {*Interaction.__struct_fields__, *StoredInteraction.__struct_fields__} - {"interaction"}
    assert set(interactions.columns.keys()) - {"sequence"} == kept


def test_another_thread_may_take_over(store: StoreSection) -> None:
    ledger = Ledger.open(store, 0, 1)

    def write() -> None:
        with ledger.transaction() as transaction:
            transaction.add_interactions([stored("i1")])

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert len(ledger.history("ann")) == 1
