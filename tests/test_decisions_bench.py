"""The decision benchmark's scale, its memory of finished runs, and its tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decisions.data import MissingData, Sources
from benchmarks.decisions.interface import Batch, Choice, Environment, Feedback
from benchmarks.decisions.peers.random_choice import RandomPeer
from benchmarks.decisions.playing import Job, Played, Results, play, play_all, share
from benchmarks.decisions.runs import Table
from benchmarks.decisions.tables import Row, plot, table

VALUES = np.random.default_rng(0).random((400, 5))


def small_run() -> Table:
    return Table(
        values_RA=VALUES,
        rewards_RA=VALUES,
        context_RQ=None,
        context_is_text=False,
        batch_size=10,
    )


class Knowing:
    """Knows what every choice earns."""

    def __init__(self) -> None:
        self._start = 0

    def choose(self, batch: Batch) -> Choice:
        here = VALUES[self._start : self._start + len(batch)]
        self._start += len(batch)
        return Choice(positions_BK=here.argmax(1)[:, None])

    def learn(self, batch: Batch, choice: Choice, feedback: Feedback) -> None:
        """Nothing."""


def share_of(agent: object) -> float:
    run, earned = small_run(), 0.0
    for batch in run.batches():
        choice = agent.choose(batch)  # type: ignore[attr-defined]
        earned += float(run.feedback(batch, choice).value_BK.sum())
    return share(earned, run.totals())


def test_random_choice_is_the_zero_of_the_scale_and_the_best_choice_its_one() -> None:
    run = small_run()
    random = RandomPeer().start(run.world, np.random.default_rng(1))
    assert share_of(random) == pytest.approx(0.0, abs=0.1)
    assert share_of(Knowing()) == pytest.approx(1.0)


def test_finished_runs_are_remembered(tmp_path: Path) -> None:
    job = Job(environment="shop", peer="random", settings={"alpha": 0.3}, seed=4)
    played = Played(share=0.25, curve=[0.1, 0.25], seconds=1.5)
    Results(tmp_path).add(job, played)
    assert Results(tmp_path).of(job) == played


def test_a_finished_run_is_not_played_again(tmp_path: Path) -> None:
    """No environment has this name, so playing it would fail."""
    job = Job(environment="nowhere", peer="random", settings={}, seed=0)
    sources, played = Sources(data=None, cache=tmp_path), Played(share=0.5, curve=[], seconds=0.0)
    Results(tmp_path).add(job, played)
    results = Results(tmp_path)
    play_all([job], sources, results, num_processes=1)
    assert results.of(job) == played
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        play(job, sources)


def test_an_environment_without_its_data_says_what_is_missing(tmp_path: Path) -> None:
    sources = Sources(data=tmp_path, cache=tmp_path)
    with pytest.raises(MissingData, match="jester: no folder jester"):
        sources.folder("jester", "jester")


def row(peer: str, *shares: float) -> Row:
    played = [Played(share=one, curve=[one / 2, one], seconds=2.0) for one in shares]
    return Row(environment="shop", peer=peer, settings={}, played=played)


def test_tables_pair_the_seeds(tmp_path: Path) -> None:
    """Differences .1, .2: mean .15, half width t(.975, 1) * .0707 / sqrt(2) = 12.706 * .05."""
    rows = [row("rove", 0.4, 0.6), row("other", 0.3, 0.4)]
    text = table(rows)
    assert "+0.150 +- 0.635" in text
    assert "| shop | 0.500 | other | 0.350 | 1.429 | +0.150 +- 0.635 | - |" in text
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_one_seed_has_no_interval() -> None:
    text = table([row("rove", 0.4), row("other", 0.3)])
    assert "nan" not in text
    assert "| **rove** | 0.400 |  | 1 |" in text
    assert "| other | 0.300 | +0.100 | 1 |" in text


def test_a_peer_with_fewer_seeds_is_paired_with_the_first_of_ours() -> None:
    """Differences .1, .1 over the first two seeds; the third of ours has no partner."""
    text = table([row("rove", 0.4, 0.6, 0.9), row("other", 0.3, 0.5)])
    assert "| other | 0.400 +- 1.271 | +0.100 +- 0.000 | 2 |" in text


def test_marks_are_no_rivals() -> None:
    text = table([row("rove", 0.4), row("other", 0.3), row("best-fixed", 0.8)])
    assert "| shop | 0.400 | other | 0.300 | 1.333 | +0.100 | 0.800 |" in text


def test_the_geometric_mean_has_a_floor_and_says_so() -> None:
    """Ratios 4 and -1, which counts as .01: sqrt(.04) = .2."""
    elsewhere = [dataclasses.replace(row("rove", -0.2), environment="news")]
    elsewhere += [dataclasses.replace(row("other", 0.2), environment="news")]
    text = table([row("rove", 0.8), row("other", 0.2), *elsewhere])
    assert "| **geometric mean** | | news counted as 0.01 | | **0.200** | | |" in text


def test_a_ratio_to_nothing_is_left_out_of_the_mean_which_says_so() -> None:
    elsewhere = [dataclasses.replace(row("rove", 0.2), environment="news")]
    elsewhere += [dataclasses.replace(row("other", 0.0), environment="news")]
    text = table([row("rove", 0.8), row("other", 0.2), *elsewhere])
    assert "| **geometric mean** | | over 1 of 2 environments | | **4.000** | | |" in text


def test_the_environment_is_what_the_interface_says() -> None:
    class Small:
        name = "small"

        def open(self, seed: int) -> Table:
            return small_run()

    environment: Environment = Small()
    world = environment.open(0).world
    assert (world.num_items, world.num_slots, world.num_users) == (5, 1, 0)
