"""Who may write a shard: one holder at a time, numbered by epochs, for a time that is renewed.

- A new holder comes in at once when the one before is provably gone (`Guard`: the system or the
  server gave its lock up), or else when its time is up; the epoch grows by one.
- Every transaction asks for the epoch in the transaction itself, with the row locked, and renews
  the time when half of it is over. So of a holder that was paused, or cut off, nothing is stored
  once another has taken over, however late it comes back; it gets `LeaseLost`.
- Time is the store's clock: the server's of PostgreSQL, the machine's of SQLite. A holder may write
  after its time, as long as nobody has taken over.
"""

from __future__ import annotations

import os
import socket
import time

from sqlalchemy import ColumnElement, Connection, bindparam, insert, literal_column, select, update

from rove.errors import LeaseLost, StoreUnavailable
from rove.ledger.database import Database
from rove.ledger.schema import lease

_POLL_S = 0.05
_CLOCKS: dict[str, ColumnElement[float]] = {
    "sqlite": literal_column("(julianday('now') - 2440587.5) * 86400.0"),
    "postgresql": literal_column("extract(epoch FROM clock_timestamp())::float8"),
}
_LEFT = {
    name: select(lease.c.epoch, (lease.c.expires_at - now).label("left_s"), lease.c.holder)
    for name, now in _CLOCKS.items()
}
_LOCKED = {name: query.with_for_update() for name, query in _LEFT.items()}
_RENEW = {
    name: update(lease).values(
        epoch=bindparam("epoch_"), holder=bindparam("holder_"), expires_at=now + bindparam("for_s")
    )
    for name, now in _CLOCKS.items()
}


def add_lease(connection: Connection) -> None:
    """Store that nobody has ever held the lease."""
    connection.execute(insert(lease).values(id=1, epoch=0, holder="", expires_at=0.0))


class Lease:
    """The right to write one database; `epoch` is which holder this is."""

    epoch: int

    def __init__(self, database: Database, lease_s: float, patience_s: float) -> None:
        """Take the right, or raise `StoreUnavailable` if another has it for all of that time."""
        self._database = database
        self._lease_s = lease_s
        self._holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._guard = database.guard()
        self._renewed_s = -lease_s
        self._is_lost = False
        self.epoch = 0
        try:
            self._wait(patience_s)
        except BaseException:
            self._guard.release()
            raise

    def check(self, connection: Connection) -> None:
        """Raise `LeaseLost` unless the transaction on that connection may write."""
        dialect = connection.dialect.name
        epoch, left_s, holder = connection.execute(_LOCKED[dialect]).one()
        if epoch != self.epoch:
            self._is_lost = True
            raise self._lost(holder)
        if left_s < self._lease_s / 2.0:
            self._take(connection, self.epoch)
        else:
            self._renewed_s = time.monotonic() - (self._lease_s - left_s)

    def renew(self) -> None:
        """Renew the time if it is due; raise `LeaseLost` if another has taken over."""
        if self._is_lost:
            raise self._lost("another process")
        if time.monotonic() - self._renewed_s >= self._lease_s / 2.0:
            with self._database.transaction() as connection:
                self.check(connection)

    def release(self) -> None:
        """Let the next holder in."""
        self._guard.release()

    def _wait(self, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        while True:
            with self._database.reading() as connection:
                epoch, left_s, holder = connection.execute(_LEFT[connection.dialect.name]).one()
                gone = self._guard.is_gone(epoch)
                if left_s <= 0.0 and not gone:
                    self._guard.evict(epoch)
            if (gone or left_s <= 0.0) and self._took_over(epoch):
                return
            if time.monotonic() >= deadline_s:
                raise StoreUnavailable(
                    f"{self._database.name}: {holder or 'another process'} writes this shard; stop "
                    "it first (one writer per shard; reading needs no lease)"
                )
            time.sleep(_POLL_S)

    def _took_over(self, before: int) -> bool:
        """Become the holder after that epoch, unless another has been quicker."""
        with self._database.transaction() as connection:
            epoch, _, _ = connection.execute(_LOCKED[connection.dialect.name]).one()
            if epoch != before:
                return False
            self._guard.hold(epoch + 1)
            self._take(connection, epoch + 1)
        self.epoch = epoch + 1
        return True

    def _take(self, connection: Connection, epoch: int) -> None:
        values = {"epoch_": epoch, "holder_": self._holder, "for_s": self._lease_s}
        connection.execute(_RENEW[connection.dialect.name], values)
        self._renewed_s = time.monotonic()

    def _lost(self, holder: str) -> LeaseLost:
        return LeaseLost(
            f"{self._database.name}: {holder} has taken this shard over; nothing of this request "
            "was stored. Send it again, and open the shard anew if this process is to write it"
        )
