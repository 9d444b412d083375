"""An adapter is used where the model with it ranks held-out visits better than without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rove.config import Config
from rove.encoder import Encoder
from rove.release import ADAPTED_NDCG, FROZEN_NDCG, latest
from tests.colours import config_of, write_adapter, write_data, write_encoder
from tests.worlds import NUM_ITEMS, TRAINING, embeddings, purchases, unit_vectors
from training.better import compare
from training.first_release import run

CONFIG = Config.parse({"name": "a", "training": TRAINING, "adapt": {"validation_share": 0.3}})


def test_vectors_that_say_what_users_like_are_better_than_noise() -> None:
    noise = unit_vectors(NUM_ITEMS, np.random.default_rng(9))
    behaviour = purchases().take(slice(0, 400))  # so little that factors do not know it all
    found = compare(behaviour, embeddings(), noise, CONFIG)
    assert found is not None and found.is_better
    assert found.ahead.mean == pytest.approx(found.adapted - found.frozen)
    assert found.line().startswith(f"the adapter is used: NDCG@10 {found.adapted:.4f} with it")
    turned = compare(behaviour, noise, embeddings(), CONFIG)
    assert turned is not None and not turned.is_better
    assert (turned.adapted, turned.frozen) == (found.frozen, found.adapted)


def test_equal_vectors_leave_the_encoder_as_it_is() -> None:
    found = compare(purchases(), embeddings(), embeddings(), CONFIG)
    assert found is not None and not found.is_better
    assert found.line().startswith("the adapter is not used: ")


def test_nothing_to_rank_for_is_no_comparison() -> None:
    assert compare(purchases().take(slice(0, 1)), embeddings(), embeddings(), CONFIG) is None


def test_a_release_has_the_adapter_only_if_it_is_better(tmp_path: Path) -> None:
    """A random adapter: whichever ranks better is what the release reads with, and says so."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    config = config_of(tmp_path, tmp_path, method="houlsby")
    write_adapter(config, tmp_path / "own")
    adapted = config.encoder.model_copy(update={"adapter": tmp_path / "own"})
    training = config.training.model_copy(update={"adapter": "if_better"})
    config = config.model_copy(update={"encoder": adapted, "training": training})
    run(config, from_ledger=False, with_report=False)
    release = latest(config.releases.path)
    better = release.metrics[ADAPTED_NDCG] > release.metrics[FROZEN_NDCG]
    assert (release.encoder_folder / "adapter").is_dir() == better
    assert (release.encoder == Encoder.load(adapted).name) == better
