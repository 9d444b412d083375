"""PostgreSQL while it restarts, or while a commit is under way: nothing acknowledged is lost."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from rove.config import Config, StoreSection
from rove.engine import Engine
from rove.errors import ConfigError, OutcomeUnknown, StoreUnavailable
from rove.ledger.items import ItemStore
from rove.ledger.ledger import Ledger
from rove.ledger.postgres import PostgresStore
from tests.postgres import PostgresServer
from tests.rove.test_store_lease import add, known
from tests.worlds import Shop, did, observe, rank, request, shares, taste, view_of


class Proxy:
    """Stands between a client and the server; breaks the connection at the next commit if told."""

    def __init__(self, server: PostgresServer) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rove-proxy-"))
        self.breaks: str | None = None
        """`before`: the server does not hear the commit; `after`: its answer is kept back."""
        self._server = str(server.folder / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://rove@/postgres?host={self.folder}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            for pump in (self._to_server, self._to_client):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(client):
            if b"COMMIT" in data and self.breaks is not None:
                how, self.breaks = self.breaks, None
                if how == "after":
                    client.shutdown(socket.SHUT_RDWR)
                    server.sendall(data)
                    time.sleep(0.2)
                break
            server.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(server):
            try:
                client.sendall(data)
            except OSError:
                return


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65536)
    except OSError:
        return b""


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    made = Proxy(postgres)
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that may be ended and started."""
    server = PostgresServer()
    yield server
    server.close()


def soon(action: Callable[[], object], within_s: float = 5.0) -> None:
    """Do what is refused for a while, as a client would."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            action()
            return
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_restarts_is_found_again(
    own_server: PostgresServer, postgres_store: StoreSection, how: signal.Signals
) -> None:
    store = postgres_store.model_copy(update={"url": own_server.url, "durability": "power_loss"})
    with closing(Ledger.open(store, 0, 1)) as ledger, closing(ItemStore.open(store)) as items:
        add(ledger, "i1")
        own_server.stop(how)
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match=re.escape("cannot be reached")) as caught:
                add(ledger, "i2")
            assert caught.value.fields["retry_after_s"] <= 1.0
            assert time.monotonic() - started < 1.0  # nobody waits here for the server
        with pytest.raises(StoreUnavailable, match=re.escape("cannot be reached")):
            ledger.history("ann")
        own_server.start()
        soon(lambda: add(ledger, "i3"))
        assert known(ledger, "i1", "i2", "i3") == {"i1", "i3"}
        soon(lambda: items.delete(["pear"]))


def test_a_connection_that_broke_while_idle_is_made_again_unnoticed(
    postgres: PostgresServer, postgres_store: StoreSection
) -> None:
    with closing(Ledger.open(postgres_store, 0, 1)) as ledger:
        add(ledger, "i1")
        with closing(PostgresStore(postgres_store)) as other:
            with other.open("shard-0", "read").reading() as connection:
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                )
        add(ledger, "i2")
        assert known(ledger, "i1", "i2") == {"i1", "i2"}
        impatient = postgres_store.model_copy(update={"busy_timeout_s": 0.1})
        with pytest.raises(StoreUnavailable, match=re.escape("writes this shard")):
            Ledger.open(impatient, 0, 1)  # the new session has the lock again


@pytest.mark.parametrize("breaks", ["before", "after"])
def test_an_event_whose_commit_broke_is_learnt_once(
    proxy: Proxy, postgres_store: StoreSection, tmp_path: Path, breaks: str
) -> None:
    """Stored or not, the views follow the ledger, and sending the events again is safe."""
    store = postgres_store.model_copy(update={"url": proxy.url})
    engine: Engine = Shop(tmp_path, store=store).engine()
    with closing(engine):
        observe(engine, did("i1", "ann"), did("i2", "bob", "item-3"))
        before = taste(engine, "ann")  # is cached
        proxy.breaks = breaks
        event = did("i3", "ann", "item-9")
        with pytest.raises(OutcomeUnknown, match=re.escape("send it again with the same ids")):
            engine.observe([event])
        statuses: list[str] = []
        soon(lambda: statuses.extend(observe(engine, event)))
        assert statuses == (["accepted"] if breaks == "before" else ["duplicate"])
        after, means = taste(engine, "ann"), shares(engine)
        assert np.abs(after - before).max() > 1e-6
        view_of(engine).users.clear()
        assert taste(engine, "ann") == pytest.approx(after, abs=1e-9)
    again = Shop(tmp_path, store=postgres_store).engine()
    with closing(again):
        assert taste(again, "ann") == pytest.approx(after, abs=1e-9)
        assert shares(again) == pytest.approx(means, abs=1e-9)


@pytest.mark.parametrize("breaks", ["before", "after"])
def test_a_decision_whose_commit_broke_is_the_same_when_it_is_asked_for_again(
    proxy: Proxy, postgres_store: StoreSection, tmp_path: Path, breaks: str
) -> None:
    store = postgres_store.model_copy(update={"url": proxy.url})
    with closing(Shop(tmp_path, store=store).engine()) as engine:
        rank(engine, request("ann", "e0"))
        proxy.breaks = breaks
        with pytest.raises(OutcomeUnknown, match=re.escape("the connection broke during a commit")):
            engine.rank([request("ann", "e1")])
        soon(lambda: rank(engine, request("ann", "e1")))
        first = rank(engine, request("ann", "e1"))
        assert engine.decision("e1").decision == first


def test_what_cannot_be_reached_says_so_without_the_password(tmp_path: Path) -> None:
    store = StoreSection(
        url=f"postgresql+psycopg://rove:s3cret@/db?host={tmp_path}", busy_timeout_s=0.1
    )
    with pytest.raises(StoreUnavailable, match=re.escape("cannot be reached")) as caught:
        Ledger.open(store, 0, 1)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(ConfigError, match=re.escape("must start with sqlite:///")) as refused:
        Config.parse({"name": "a", "store": {"url": "postgresql://rove:s3cret@db/rove"}})
    assert "postgresql://rove:***@db/rove" in str(refused.value)
    config = Config.parse({"name": "a", "store": store.model_dump()})
    assert "s3cret" not in config.write(tmp_path).read_text("utf-8")


def test_one_ledger_has_one_connection(
    postgres: PostgresServer, postgres_store: StoreSection
) -> None:
    with closing(PostgresStore(postgres_store)) as other:
        shard = other.open("shard-0", "write")

        def num_sessions() -> int:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rove'"
            with shard.reading() as connection:
                return int(connection.exec_driver_sql(query).scalar_one())

        before = num_sessions()
        ledgers = [Ledger.open(postgres_store, shard, 6) for shard in range(6)]
        assert ledgers[0].statistics_of_others("r1", {}) == {}
        assert num_sessions() == before + 6
    for ledger in ledgers:
        ledger.close()
