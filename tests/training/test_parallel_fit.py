"""`training.factorise` by several processes: the same release, to the last bit.

Whoever is killed, too.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml
from scipy import sparse

from rove.behaviour import Behaviour
from rove.config import TrainingSection
from rove.learning import learn
from rove.release import write
from rove.user_blocks import BLOCK_USERS, Spread, Taste, add_up, cut, here
from tests.colours import tree, write_data, write_encoder
from tests.worlds import END_S, NUM_ITEMS, START_S, TRAINING, behaviour_of, embeddings, item
from training.factorise import main
from training.parallel_fit import Pool

ROOT = Path(__file__).parent.parent.parent
NUM_USERS = 3 * BLOCK_USERS + 100  # four blocks, the last one short

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A local cluster with four CPUs, as Ray counts them."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()


def purchases() -> Behaviour:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), 2)
    taste_IE = rng.normal(size=(NUM_USERS, embeddings().shape[1]))
    logit_nJ = (2.0 * taste_IE @ embeddings().T)[users] + rng.gumbel(size=(len(users), NUM_ITEMS))
    times = rng.uniform(START_S, END_S, len(users))
    return behaviour_of(users, logit_nJ.argmax(1), times, NUM_ITEMS)


def test_one_two_and_four_processes_learn_the_same_release(tmp_path: Path) -> None:
    behaviour, section = purchases(), TrainingSection(**TRAINING | {"max_sweeps": 3})
    (tmp_path / "encoder").mkdir()

    def digest(spread: Spread) -> str:
        folder = write(
            tmp_path,
            learn(behaviour, embeddings(), section, spread=spread),
            [item(number) for number in range(NUM_ITEMS)],
            embeddings(),
            encoder="e",
            encoder_folder=tmp_path / "encoder",
            metrics={},
        )
        return folder.name.rpartition("-")[2]

    digests = [digest(here)]
    for num_workers in (1, 2, 4):
        pool = Pool(num_workers)
        digests.append(digest(pool.spread))
        pool.stop()
    assert digests == [digests[0]] * 4


def test_a_process_that_is_killed_is_replaced_and_its_blocks_are_done_again() -> None:
    """Blocks of 50 users: of 40 blocks, one process of two dies after the third."""
    rng = np.random.default_rng(1)
    blocks = list(cut(sparse.csr_array(rng.random((2000, 30))), 50))
    taste = Taste(
        features_JD=rng.normal(size=(30, 4)),
        pull_DD=rng.normal(size=(4, 4)),
        idle_D=rng.normal(size=4),
    )
    pool = Pool(2)
    first, second = pool.pids()
    found = iter(pool.spread(blocks)(taste))
    begun = [next(found) for _ in range(3)]
    os.kill(second, signal.SIGKILL)
    total = add_up(blocks, [*begun, *found], 30)
    assert pool.pids()[0] == first and pool.pids()[1] != second
    pool.stop()
    alone = add_up(blocks, here(blocks)(taste), 30)
    assert np.array_equal(total.gram_DD, alone.gram_DD)
    assert np.array_equal(total.rewards_ND, alone.rewards_ND)


def test_the_command_learns_with_two_processes_and_refuses_more_than_there_are_cpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    path = tmp_path / "rove.yaml"
    path.write_text(yaml.safe_dump(tree(tmp_path, tmp_path)), "utf-8")
    assert main([str(path), "--no-report", "training.num_workers=2"]) == 0
    assert "is in service" in capsys.readouterr().out
    assert main([str(path), "--no-report", "training.num_workers=5"]) == 2
    said = capsys.readouterr().err.strip()
    assert re.fullmatch(
        re.escape(
            "training.factorise: training.num_workers is 5, but the cluster has 4 CPUs; lower it, "
            "or start more nodes"
        ),
        said,
    )
