"""Which shard owns a user."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

from rove.sharding import shard_of

USERS = [f"user-{number}" for number in range(4_000)]


def test_the_owner_is_the_shard_with_the_highest_hash() -> None:
    """Written out, so that a client in another language can be checked against it."""
    scores = [
        blake2b(b"ann", digest_size=8, key=bytes([0, 0, 0, shard])).digest() for shard in range(5)
    ]
    assert shard_of("ann", 5) == scores.index(max(scores))


def test_known_owners_stay() -> None:
    """Rows on disk depend on these; a change would need a migration."""
    assert [shard_of(user, 8) for user in ("ann", "bob", "17850", "J\xf6rg")] == [2, 2, 1, 5]


def test_one_shard_owns_everybody() -> None:
    assert {shard_of(user, 1) for user in USERS} == {0}


def test_shards_own_about_as_many_users() -> None:
    """4,000 users over 8 shards: 500 each, standard deviation sqrt(4000 * 1/8 * 7/8) = 20.9."""
    counts = Counter(shard_of(user, 8) for user in USERS)
    assert len(counts) == 8
    assert all(abs(count - 500) < 5 * 20.9 for count in counts.values())


def test_a_further_shard_takes_users_and_no_others_move() -> None:
    """Going from 4 to 5 moves about a fifth (800, standard deviation 25), all to the new one."""
    moved = [user for user in USERS if shard_of(user, 4) != shard_of(user, 5)]
    assert {shard_of(user, 5) for user in moved} == {4}
    assert abs(len(moved) - 800) < 5 * 25.3


def test_any_text_is_a_user() -> None:
    assert all(shard_of(user, 3) in range(3) for user in ("\ud800", "\N{PEAR}", "x" * 10_000))
