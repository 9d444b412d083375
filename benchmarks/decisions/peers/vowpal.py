"""Vowpal Wabbit's contextual bandits with action-dependent features (`--cb_explore_adf`).

One peer for each of its explorers: epsilon-greedy, softmax, SquareCB, RegCB (optimistic), bag,
online cover and RND. Namespaces: the user `u`, the context `c`, the item `i`, its text's leading
components and its category `t`; interactions u x i, u x t, c x i and c x t. A label is
`0:loss:propensity` of the item that was shown, its loss being 1 - reward.

- Every slot is drawn from Vowpal Wabbit's distribution over the candidates that are left: one
  prediction per slot, since most explorers leave nothing but their floor to the second-best. The
  propensity is that of the slot given the slots before it.
- A slate teaches one example per slot, whose actions are the slate's items: with all 200 candidates
  in each of its 10 examples an update would take 20 times as long.
- Reading text is most of Vowpal Wabbit's time in Python. Where there is no context, the examples of
  the items and of the users are parsed once and used again, which changes no prediction (5 to 10
  times as fast with 100 candidates); only the labelled line is parsed for each update.
- Requests of a batch with the same user, candidates and context are predicted once, as nothing is
  learnt between them. Contexts of more than 128 values are reduced by a fixed random projection:
  with all 384 of a prompt it earned less on routing's development seeds (softmax .219, not .256).

Axes are those of `_common`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from vowpalwabbit import Example, Workspace

from benchmarks.decisions.interface import Batch, Choice, Feedback, Flags, Floats, Ints, World
from benchmarks.decisions.peers._common import Context, components

NUM_COMPONENTS = 16
NUM_CONTEXT = 128


class Distribution:
    """Probabilities of the positions, to draw from many times."""

    def __init__(self, probability_S: Floats) -> None:
        self._probabilities: list[float] = probability_S.tolist()
        self._cumulated: list[float] = probability_S.cumsum().tolist()
        self._last = int(np.flatnonzero(probability_S)[-1])

    def draw(self, luck: float) -> tuple[int, float]:
        """Return the position at a luck in [0, 1), and its probability."""
        drawn = bisect_right(self._cumulated, luck * self._cumulated[-1])
        drawn = min(drawn, self._last)  # the product may round up
        return drawn, min(self._probabilities[drawn], 1.0)


class Vowpal:
    """A workspace and the lines of the items."""

    def __init__(self, world: World, rng: np.random.Generator, flags: str) -> None:
        self._num_slots = world.num_slots
        self._rng = rng
        self._context = Context(world, NUM_CONTEXT, rng)
        crossed = [a + b for a in ("u", "c") for b in ("i", "t") if _has(world, a + b)]
        interactions = " ".join(f"-q {pair}" for pair in crossed)
        seed = int(rng.integers(1 << 30))
        self._workspace = Workspace(
            f"--cb_explore_adf --quiet -b 22 --random_seed {seed} {interactions} {flags}"
        )
        self._lines = _item_lines(world)
        self._shared: list[str] = []
        self._parsed_items: list[Example] = []
        self._parsed_shared: dict[str, Example] = {}
        if not world.context_size:
            self._parsed_items = self._workspace.parse("\n".join(["shared |s", *self._lines]))[1:]

    def choose(self, batch: Batch) -> Choice:
        """Draw slates from the predicted distributions."""
        self._shared = self._shared_lines(batch)
        known: dict[tuple[str, bytes, bytes], Distribution] = {}
        positions_BK = np.zeros((len(batch), self._num_slots), dtype=np.int64)
        propensity_BK = np.ones((len(batch), self._num_slots))
        for row, shared in enumerate(self._shared):
            items_S, open_S = batch.candidates_BS[row], batch.open_BS[row].copy()
            for slot in range(self._num_slots):
                key = (shared, items_S.tobytes(), open_S.tobytes())
                if key not in known:
                    known[key] = Distribution(self._predict(shared, items_S, open_S))
                drawn, propensity_BK[row, slot] = known[key].draw(self._rng.random())
                positions_BK[row, slot] = drawn
                open_S[drawn] = False
        return Choice(positions_BK=positions_BK, propensity_BK=propensity_BK)

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Teach one example for each observed reward."""
        assert choice.propensity_BK is not None
        items_BK = choice.items(batch)
        known: dict[tuple[str, bytes, int, str], list[Example]] = {}
        labelled: list[list[Example]] = []
        for row, slot in np.argwhere(np.isfinite(feedback.reward_BK)).tolist():
            if self._num_slots == 1:
                items_S = batch.candidates_BS[row][batch.open_BS[row]]
            else:
                items_S = items_BK[row]
            chosen, shared = int(items_BK[row, slot]), self._shared[row]
            loss = 1.0 - feedback.reward_BK[row, slot]
            label = f"0:{loss:.6g}:{choice.propensity_BK[row, slot]:.6g} "
            if not self._parsed_items:
                lines = [self._lines[item] for item in items_S.tolist()]
                lines[items_S.tolist().index(chosen)] = label + self._lines[chosen]
                self._workspace.learn("\n".join([shared, *lines]))
                continue
            key = (shared, items_S.tobytes(), chosen, label)
            if key not in known:
                labelled.append(self._workspace.parse(label + self._lines[chosen]))
                known[key] = self._actions(shared, items_S, chosen, labelled[-1][0])
            self._workspace.learn(known[key])
        for parsed in labelled:
            self._workspace.finish_example(parsed)

    def _actions(self, shared: str, items_S: Ints, chosen: int, labelled: Example) -> list[Example]:
        """Return the parsed examples of a request, the chosen one with its label."""
        items = items_S.tolist()
        actions = [self._parsed_items[item] for item in items]
        actions[items.index(chosen)] = labelled
        return [self._parse_shared(shared), *actions]

    def _parse_shared(self, shared: str) -> Example:
        if shared not in self._parsed_shared:
            # A shared line is only read with an action.
            self._parsed_shared[shared] = self._workspace.parse(f"{shared}\n|i 0")[0]
        return self._parsed_shared[shared]

    def _shared_lines(self, batch: Batch) -> list[str]:
        users = [f" |u {user}" if user >= 0 else "" for user in batch.users_B.tolist()]
        if not self._context.width:
            return [f"shared{user} |s" if not user else f"shared{user}" for user in users]
        contexts = [_numbers(values, "|c") for values in self._context.read(batch).tolist()]
        return [f"shared{user} {text}" for user, text in zip(users, contexts, strict=True)]

    def _predict(self, shared: str, items_S: Ints, open_S: Flags) -> Floats:
        """Return the probability of each position, 0 where it is closed, (S,)."""
        items = items_S[open_S].tolist()
        probability_S = np.zeros(len(items_S))
        if self._parsed_items:
            actions = [self._parsed_items[item] for item in items]
            probabilities = self._workspace.predict([self._parse_shared(shared), *actions])
        else:
            lines = [self._lines[item] for item in items]
            probabilities = self._workspace.predict("\n".join([shared, *lines]))
        probability_S[open_S] = probabilities
        probability_S /= probability_S.sum()
        return probability_S


def _has(world: World, pair: str) -> bool:
    """Say whether the world has both namespaces of an interaction."""
    has_text = world.text_JE is not None or world.groups_J is not None
    there = {"u": world.num_users > 0, "c": world.context_size > 0, "i": True, "t": has_text}
    return all(there[namespace] for namespace in pair)


def _numbers(values: Sequence[float], namespace: str) -> str:
    parts = [f"{column}:{value:.4g}" for column, value in enumerate(values) if value]
    return " ".join([namespace, *parts])


def _item_lines(world: World) -> list[str]:
    """Return the line of each item."""
    lines = [f"|i {item}" for item in range(world.num_items)]
    text_JP = components(world, NUM_COMPONENTS)
    groups = world.groups_J.tolist() if world.groups_J is not None else [None] * len(lines)
    for item, group in enumerate(groups):
        if text_JP.shape[1]:
            lines[item] += " " + _numbers(text_JP[item].tolist(), "|t")
        elif group is not None:
            lines[item] += " |t"
        if group is not None:
            lines[item] += f" g{group}"
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """One of Vowpal Wabbit's ways to explore."""

    name: str
    grid: tuple[dict[str, object], ...]

    def fits(self, world: World) -> bool:
        """Say yes; a run of 10,000 requests with 100 candidates takes about 10 seconds."""
        return True

    def start(self, world: World, rng: np.random.Generator, *, flags: str | None = None) -> Vowpal:
        """Return an agent; `flags` are Vowpal Wabbit's, by default the grid's first."""
        return Vowpal(world, rng, str(self.grid[0]["flags"]) if flags is None else flags)


def _grid(
    options: Sequence[str], rates: Sequence[float] = (0.5, 2.0)
) -> tuple[dict[str, object], ...]:
    return tuple({"flags": f"{option} -l {rate}"} for option in options for rate in rates)


PEERS = (
    Explorer(name="vw-epsilon", grid=_grid(["--epsilon 0.02", "--epsilon 0.05", "--epsilon 0.2"])),
    Explorer(
        name="vw-softmax",
        grid=_grid([f"--softmax --lambda {strength}" for strength in (10, 50, 200)]),
    ),
    Explorer(
        name="vw-squarecb",
        grid=_grid([f"--squarecb --gamma_scale {scale}" for scale in (10, 100, 1000)]),
    ),
    Explorer(
        name="vw-regcb",
        grid=_grid([f"--regcbopt --mellowness {width}" for width in (0.001, 0.01, 0.1)]),
    ),
    Explorer(name="vw-bag", grid=_grid([f"--bag {num} --epsilon 0.02" for num in (3, 5, 10)])),
    Explorer(
        name="vw-cover",
        grid=_grid([f"--cover {num} --psi 0.1 --epsilon 0.02" for num in (2, 4, 8)]),
    ),
    Explorer(
        name="vw-rnd",
        grid=_grid([f"--rnd 1 --epsilon 0.02 --rnd_alpha {alpha}" for alpha in (0.03, 0.1, 0.3)]),
    ),
)
