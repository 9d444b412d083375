"""Which invoices may be in flight together.

A window is a run of successive invoices of different users. All of its ranks are answered before
any of its purchases is posted, and all of those are acknowledged before the next window begins. So

- no rank ever sees a purchase that happened later, or its own;
- every rank sees all purchases of the windows before, its own user's always;
- what a rank may miss are the purchases of at most `size - 1` invoices just before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rove.demo.split import Visit


def windows(visits: Sequence[Visit], size: int) -> Iterator[Sequence[Visit]]:
    """Yield `visits` in order, at most `size` at a time, no user twice in one window."""
    start, users = 0, set[str]()
    for position, visit in enumerate(visits):
        if position - start == size or visit.user_id in users:
            yield visits[start:position]
            start, users = position, set()
        users.add(visit.user_id)
    if visits:
        yield visits[start:]
