"""Rows older than `privacy.retention_days` are deleted, a bounded part with every `sync`.

- Age is of when something happened, by the clock; a decision is always older than its reward's wait
  before it goes, so nothing that is still open is lost.
- Sums are not rows of anybody: item statistics since the release keep what was counted, until the
  next release is learnt from what is left. Views of the users are built anew when needed.
- How many interactions went is counted, so that a refit does not take it for a lost history.
"""

from __future__ import annotations

from rove.errors import ConfigError
from rove.ledger.ledger import Ledger
from rove.ledger.scan import REMOVED

_DAY_S = 86_400.0
_PAUSE_S = 3600.0
"""Between one passage through all interactions and the next."""


class Retention:
    """Where one shard is in its passage through the ledger."""

    def __init__(self, days: float, wait_s: float, ledger: Ledger) -> None:
        self._age_s = days * _DAY_S
        if self._age_s < wait_s:
            raise ConfigError(
                f"privacy.retention_days is {days:g}, and a decision waits for its reward for "
                f"{wait_s / _DAY_S:g} days (rewards.reward_wait_time_s); "
                "keep it for at least as long"
            )
        self._wait_s = wait_s
        self._ledger = ledger
        self._after = 0
        self._due_s = 0.0

    def sync(self, now_s: float) -> set[str]:
        """Delete the next part of what is too old; return the users that had any of it."""
        before_s = now_s - self._age_s
        is_due = now_s >= self._due_s
        with self._ledger.transaction() as transaction:
            users = transaction.delete_decisions(before_s, self._wait_s)
            after: int | None = self._after
            if is_due:
                old, number, after = transaction.delete_interactions(self._after, before_s)
                users |= old
                if number:
                    removed = int(self._ledger.state(REMOVED) or 0)
                    transaction.put_state(REMOVED, str(removed + number))
            transaction.erased = bool(users)
        if after is None:
            self._due_s = now_s + _PAUSE_S
        self._after = after or 0
        return users
