"""One writer per shard: leases that are taken over, and what a former holder cannot do any more."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

import rove
from rove.config import StoreSection
from rove.errors import LeaseLost, StoreUnavailable
from rove.events import Interaction, InteractionType
from rove.ledger.ledger import Ledger, StoredInteraction
from rove.ledger.schema import lease
from rove.ledger.store import open_store

ROOT = Path(rove.__file__).parents[1]

# Stores an interaction for every line it reads, and says what became of it.
WRITER = """
import sys
from rove.config import StoreSection
from rove.errors import StoreUnavailable
from rove.ledger.ledger import Ledger
from tests.rove.test_store_lease import add, made

ledger = Ledger.open(StoreSection.model_validate_json(sys.argv[1]), 0, 1)
print("open", flush=True)
for line in sys.stdin:
    try:
        if line.startswith("half"):
            with ledger.transaction() as transaction:
                transaction.add_interactions([made("half")])
                print("begun", flush=True)
                sys.stdin.readline()
        add(ledger, line.strip())
        print("stored", flush=True)
    except StoreUnavailable as error:
        print(type(error).__name__, len(ledger.history("ann")), flush=True)
"""


def made(interaction_id: str) -> StoredInteraction:
    interaction = Interaction(
        interaction_id=interaction_id,
        user_id="ann",
        item_id="apple",
        type=InteractionType.CLICK,
        timestamp=1.0,
    )
    return StoredInteraction(
        interaction=interaction, reward=1.0, status="accepted", received_at=1.0
    )


def add(ledger: Ledger, interaction_id: str) -> None:
    with ledger.transaction() as transaction:
        transaction.add_interactions([made(interaction_id)])


def known(ledger: Ledger, *ids: str) -> set[str]:
    with ledger.transaction() as transaction:
        return transaction.known_interactions(ids)


class Writer:
    """A process that writes shard 0."""

    def __init__(self, store: StoreSection) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, store.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert self.heard() == "open"

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def writing(store: StoreSection) -> Iterator[Writer]:
    writer = Writer(store)
    try:
        yield writer
    finally:
        writer.process.kill()
        writer.process.communicate()


def brief(store: StoreSection) -> StoreSection:
    return store.model_copy(update={"lease_s": 0.5})


def test_a_paused_writer_is_taken_over_and_writes_nothing_when_it_comes_back(
    store: StoreSection,
) -> None:
    with writing(brief(store)) as writer:
        writer.say("i1")
        assert writer.heard() == "stored"
        writer.process.send_signal(signal.SIGSTOP)
        with closing(Ledger.open(brief(store), 0, 1)) as successor:
            add(successor, "i2")
            writer.say("i3")
            writer.process.send_signal(signal.SIGCONT)
            assert writer.heard() == "LeaseLost 2"  # and it still reads
            writer.say("i4")
            assert writer.heard() == "LeaseLost 2"
            assert known(successor, "i1", "i2", "i3", "i4") == {"i1", "i2"}


def test_a_writer_that_is_paused_in_a_transaction_stores_nothing_of_it(
    postgres_store: StoreSection,
) -> None:
    """The server ends its session; of SQLite's the transaction would have to be waited for."""
    with writing(brief(postgres_store)) as writer:
        writer.say("half")
        assert writer.heard() == "begun"
        writer.process.send_signal(signal.SIGSTOP)
        with closing(Ledger.open(brief(postgres_store), 0, 1)) as successor:
            add(successor, "i2")
            writer.process.send_signal(signal.SIGCONT)
            writer.say("go on")
            assert writer.heard() == "OutcomeUnknown 1"
            writer.say("i3")
            assert writer.heard() == "LeaseLost 1"
            assert known(successor, "half", "i2", "i3") == {"i2"}


def test_a_killed_writer_is_taken_over_at_once(store: StoreSection) -> None:
    lasting = store.model_copy(update={"lease_s": 600.0})
    with writing(lasting) as writer:
        writer.say("i1")
        assert writer.heard() == "stored"
        writer.process.kill()
        writer.process.wait()
        with closing(Ledger.open(lasting, 0, 1)) as successor:
            assert known(successor, "i1") == {"i1"}


def expiry(store: StoreSection) -> float:
    with closing(open_store(store)) as opened, closing(opened.open("shard-0", "read")) as shard:
        with shard.reading() as connection:
            return float(connection.execute(select(lease.c.expires_at)).scalar_one())


def test_a_writer_renews_when_half_of_its_time_is_over(store: StoreSection) -> None:
    with closing(Ledger.open(brief(store), 0, 1)) as ledger:
        first = expiry(store)
        time.sleep(0.3)
        ledger.renew()
        second = expiry(store)
        assert second >= first + 0.25
        time.sleep(0.3)
        add(ledger, "i1")
        assert expiry(store) >= second + 0.25


def test_a_holder_may_write_after_its_time_if_nobody_has_taken_over(store: StoreSection) -> None:
    with closing(Ledger.open(brief(store), 0, 1)) as ledger:
        time.sleep(0.7)
        add(ledger, "i1")
        ledger.renew()


def test_an_idle_holder_learns_of_its_successor(store: StoreSection) -> None:
    first = Ledger.open(brief(store), 0, 1)
    time.sleep(0.6)
    with closing(Ledger.open(store, 0, 1)) as second:
        with pytest.raises(LeaseLost, match=re.escape("has taken this shard over; nothing of")):
            first.renew()
        with pytest.raises(LeaseLost, match=re.escape("open the shard anew")):
            add(first, "i1")
        first.close()
        impatient = store.model_copy(update={"busy_timeout_s": 0.1})
        add(second, "i2")
        with pytest.raises(StoreUnavailable, match=re.escape("writes this shard; stop it")):
            Ledger.open(impatient, 0, 1)  # the first one's lock was its own


def test_the_lease_comes_round(store: StoreSection) -> None:
    """Whoever lost a shard can have it again once the successor has left."""
    first = Ledger.open(brief(store), 0, 1)
    time.sleep(0.6)
    Ledger.open(brief(store), 0, 1).close()
    with closing(Ledger.open(store, 0, 1)) as again:
        with pytest.raises(LeaseLost, match=re.escape("has taken this shard over")):
            add(first, "i1")
        add(again, "i2")
        assert known(again, "i1", "i2") == {"i2"}
    first.close()
