"""Runs without Ray on a tiny BERT: they learn, stop, and go on as if they had not been stopped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rove.adaptation import adapters
from rove.adaptation.fitting import Built, build
from rove.adaptation.run import Run
from rove.adaptation.validation import held_out
from rove.encoder import Encoder
from rove.errors import DataError
from tests.colours import config_of, prepared_of, write_data, write_encoder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder and data."""
    folder = tmp_path_factory.mktemp("world")
    write_encoder(folder / "bert")
    write_data(folder)
    return folder


def start(world: Path, **settings: Any) -> tuple[Built, Run]:
    config = config_of(world, world, **settings)
    texts, history, validation, popularity = prepared_of(config)
    steps = history.num_steps(config.adapt.batch_users, 1) * config.adapt.epochs
    built = build(config, texts, popularity, steps)
    return built, Run(built.objective, history, validation)


@pytest.mark.parametrize("layers", [1, None])
def test_the_tower_gives_the_vectors_of_the_encoder(world: Path, layers: int | None) -> None:
    built, _ = start(world, layers=layers)
    config = config_of(world, world)
    texts, *_ = prepared_of(config)
    vectors = Encoder.load(config.encoder).encode(texts)
    np.testing.assert_allclose(built.objective.vectors_JD.numpy(), vectors, atol=1e-5)


@pytest.mark.parametrize("objective", ["posterior", "contrastive", "bce"])
@pytest.mark.parametrize("method", ["lora", "adalora", "houlsby"])
def test_adapting_learns_that_users_like_a_colour(
    world: Path, tmp_path: Path, method: str, objective: str
) -> None:
    """And what is written gives the encoder the vectors that were evaluated.

    By the posterior, which is what is served, releases get better; by the others they may not, and
    then the vectors from before are what is used.
    """
    built, run = start(world, method=method, objective=objective, epochs=6, patience=6)
    before = run.before()
    epochs = []
    while not run.is_done:
        epochs.append(run.epoch())
    assert run.epoch_number == 6
    assert min(epoch.validation.loss for epoch in epochs) < before.validation.loss - 0.1
    assert max(epoch.validation.accuracy for epoch in epochs) > 0.55
    run.use_best()
    assert run.has_helped or objective != "posterior"
    after = run.before().served
    assert after == ([before] + epochs)[run.best_epoch].served
    assert run.has_helped == (after.value > before.served.value)
    built.write_adapter(tmp_path)
    config = config_of(world, world)
    section = config.encoder.model_copy(update={"adapter": tmp_path})
    vectors = Encoder.load(section).encode(built_texts(world))
    np.testing.assert_allclose(built.objective.vectors_JD.numpy(), vectors, atol=1e-4)


def built_texts(world: Path) -> list[str]:
    return prepared_of(config_of(world, world))[0]


@pytest.mark.parametrize("method", ["lora", "adalora", "houlsby"])
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(
    world: Path, tmp_path: Path, method: str
) -> None:
    _, whole = start(world, method=method, epochs=4, patience=4)
    curve = [whole.epoch() for _ in range(4)]
    _, first = start(world, method=method, epochs=4, patience=4)
    for _ in range(2):
        first.epoch()
    first.save(tmp_path)
    _, second = start(world, method=method, epochs=4, patience=4)
    second.restore(tmp_path)
    assert second.epoch_number == 2
    rest = [second.epoch() for _ in range(2)]
    for again, once in zip(rest, curve[2:], strict=True):
        assert (again.number, again.loss) == (once.number, once.loss)
        assert again.validation == once.validation
    for name, value in whole.objective.state_dict().items():
        torch.testing.assert_close(second.objective.state_dict()[name], value, rtol=0, atol=0)


def test_a_run_stops_when_validation_gets_no_better(world: Path) -> None:
    _, run = start(world, learning_rate=1e-12, epochs=50, patience=2)
    while not run.is_done:
        run.epoch()
    assert run.epoch_number < 50


def test_an_adapter_that_makes_it_worse_is_not_kept(world: Path, tmp_path: Path) -> None:
    """Good training, then from there at a rate that destroys the vectors."""
    good, run = start(world, epochs=6, patience=6)
    while not run.is_done:
        run.epoch()
    run.use_best()
    good.write_adapter(tmp_path)
    built, worse = start(world, start=str(tmp_path), learning_rate=0.3, epochs=2, stay_close=0)
    served = worse.before().served
    while not worse.is_done:
        assert worse.epoch().served.value <= served.value
    assert not worse.has_helped and worse.best_epoch == 0
    worse.use_best()
    assert worse.before().served == served
    before_JD = built.objective.get_buffer("before_JD")
    torch.testing.assert_close(built.objective.vectors_JD, before_JD, rtol=0, atol=1e-6)


def test_items_held_out_for_validation_are_not_trained_on(world: Path) -> None:
    config = config_of(world, world)
    _, history, *_ = prepared_of(config)
    held_J = held_out(history, seed=0)
    assert 0 < held_J.sum() < len(held_J) / 3
    rest = history.without(held_J)
    rng = np.random.default_rng(0)
    batches = [*rest.smaller_shops(rng, 8, 3, 4, 16), *rest.epoch(rng, 8, 3), *rest.all(8, 3, 99)]
    for batch in batches:
        for rows in (batch.support_BS, batch.query_BQ, batch.known_BK):
            assert not held_J[rows[rows >= 0]].any()


def test_a_damaged_checkpoint_is_refused(world: Path, tmp_path: Path) -> None:
    _, run = start(world)
    run.epoch()
    run.save(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(DataError, match=re.escape("the checkpoint cannot be used: ")):
        run.restore(tmp_path)


def test_a_run_can_start_from_another_ones_adapter(world: Path, tmp_path: Path) -> None:
    built, run = start(world)
    run.epoch()
    run.use_best()
    built.write_adapter(tmp_path)
    again, _ = start(world, start=str(tmp_path))
    np.testing.assert_allclose(
        again.objective.vectors_JD.numpy(), built.objective.vectors_JD.numpy(), atol=1e-5
    )
    assert adapters.read(tmp_path, built.base).method == "lora"
