"""Users in blocks: all that a fit of the factorisation asks of its users, as sums over them.

Given the items' features phi (J, D), every user's posterior mean is `theta_i = y_i phi P + c`, and
the fit needs no more of them than

    sum theta_i        (D,)
    sum theta_i theta_i'   (D, D)
    sum y_ij theta_i   (J, D), one row for each item

- A block has `BLOCK_USERS` users, however many processes share the blocks, and what the blocks
  come to is added up in their order: so one process and many give the same bits. (Processors with
  other vector units may round differently.)
- A block knows only the items that its users took, so what it sends is bounded by its interactions,
  whatever the size of the catalogue.
- `Spread` is who does the work: `here` in this process, `training.parallel_fit` on Ray.

Shapes: I users, J items, U users of a block, N items of a block, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array = npt.NDArray[np.float64]

BLOCK_USERS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The rewards of some users with the items that they took."""

    items_N: npt.NDArray[np.intp]
    """Which items these are, rising."""
    rewards_UN: sparse.csr_array


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """How a user's rewards become a posterior mean: `theta = y features pull + idle`."""

    features_JD: Array
    pull_DD: Array
    idle_D: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the users of a block add."""

    users_D: Array
    gram_DD: Array
    rewards_ND: Array
    """A row for each of the block's items."""


Work = Callable[[Taste], Iterable[Sums]]
"""The blocks' sums in the order of the blocks."""
Spread = Callable[[Sequence[Block]], Work]


def here(blocks: Sequence[Block]) -> Work:
    """Do the work in this process, one block after the other."""

    def work(taste: Taste) -> Iterable[Sums]:
        return map(partial(sums_of, taste=taste), blocks)

    return work


def cut(rewards_IJ: sparse.csr_array, block_users: int = BLOCK_USERS) -> Iterator[Block]:
    """Yield the users in blocks."""
    for start in range(0, rewards_IJ.shape[0], block_users):
        bounds = rewards_IJ.indptr[start : start + block_users + 1]
        rows = slice(bounds[0], bounds[-1])
        items_N, places = np.unique(rewards_IJ.indices[rows], return_inverse=True)
        yield Block(
            items_N=items_N,
            rewards_UN=sparse.csr_array(
                (rewards_IJ.data[rows], places.astype(np.int32), bounds - bounds[0]),
                shape=(len(bounds) - 1, len(items_N)),
            ),
        )


def sums_of(block: Block, taste: Taste) -> Sums:
    """Return what a block's users come to."""
    rewards_UN = block.rewards_UN
    users_UD = (rewards_UN @ taste.features_JD[block.items_N]) @ taste.pull_DD + taste.idle_D
    return Sums(
        users_D=users_UD.sum(0),
        gram_DD=users_UD.T @ users_UD,
        rewards_ND=rewards_UN.T @ users_UD,
    )


def add_up(blocks: Sequence[Block], sums: Iterable[Sums], num_items: int) -> Sums:
    """Return the sums over all blocks, with a row for each of all items; consumes one at a time."""
    total: Sums | None = None
    for block, one in zip(blocks, sums, strict=True):
        if total is None:
            total = Sums(
                users_D=np.zeros_like(one.users_D),
                gram_DD=np.zeros_like(one.gram_DD),
                rewards_ND=np.zeros((num_items, len(one.users_D))),
            )
        total.users_D[:] += one.users_D
        total.gram_DD[:] += one.gram_DD
        total.rewards_ND[block.items_N] += one.rewards_ND
    assert total is not None, "no users"
    return total
