"""`python -m training.evaluate` on a tiny BERT and a small made-up shop."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from rove.adaptation.fitting import build
from rove.behaviour import Behaviour
from rove.config import InteractionSource, RewardSection
from rove.evaluation.measuring import CALIBRATION, COVERAGE, MEASURES
from rove.evaluation.peers import CONTENT, EASE, POPULARITY
from rove.ledger.load import rewarded
from rove.readers import read_interactions
from rove.rewards import RewardMap
from tests.colours import config_of, prepared_of, tree, write_data, write_encoder
from training import factorise
from training.evaluate import main
from training.evaluate_job import ADAPTED, FROZEN, PAST
from training.evaluate_report import FIGURES

PEERS = ("--peers", POPULARITY, EASE, CONTENT)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, data and a configuration."""
    folder = tmp_path_factory.mktemp("world")
    write_encoder(folder / "bert")
    write_data(folder)
    settings = tree(folder, folder)
    settings["training"]["holdout_share"] = 0.3
    (folder / "rove.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    return folder


def evaluate(world: Path, *arguments: str) -> int:
    return main([str(world / "rove.yaml"), *arguments])


def test_the_report_has_a_table_for_every_slice_and_the_json_the_same_figures(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--cold-share", "0.3", "--seed", "2", "--output", str(tmp_path))
    assert evaluate(world, *options, *PEERS) == 0
    figures = json.loads((tmp_path / FIGURES).read_text("utf-8"))
    report = (tmp_path / "report.md").read_text("utf-8")
    assert figures["seed"] == 2 and figures["num_cold_items"] > 3
    assert list(figures["slices"])[:3] == ["all items", "warm items", "cold items"]
    for name, slice_ in figures["slices"].items():
        assert f"## {name.capitalize()}: {slice_['num_requests']} visits of" in report
        assert list(slice_["rivals"]) == [*PEERS[1:], FROZEN]
    best = figures["slices"]["all items"]["rivals"]
    assert best[FROZEN].keys() == {*MEASURES, COVERAGE, CALIBRATION}
    assert best[EASE].keys() == {*MEASURES, COVERAGE}
    assert f"{best[EASE]['MRR']['mean']:.4f} [" in report and "| n/a |" in report
    assert (tmp_path / "histories.svg").exists() and (tmp_path / "rove.yaml").exists()
    said = capsys.readouterr()
    assert "encoder.adapter is not set" in said.out and "encoder.adapter is not set" in report
    assert said.err == ""


def test_a_releases_language_model_is_measured_once_if_it_is_the_frozen_one(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert factorise.main([str(world / "rove.yaml"), "--no-report"]) == 0
    name = (world / "releases" / "current").read_text("utf-8").strip()
    for named in (name, str(world / "releases" / name)):
        assert evaluate(world, "--release", named, "--output", str(tmp_path), "--peers") == 0
        said = capsys.readouterr().out
        assert f"encoder of release {name}: the same language model as {FROZEN}" in said
    figures = json.loads((tmp_path / FIGURES).read_text("utf-8"))
    assert list(figures["slices"]["all items"]["rivals"]) == [FROZEN]


def test_the_same_seed_gives_the_same_figures_and_live_rivals_others(
    world: Path, tmp_path: Path
) -> None:
    found = []
    for number, options in enumerate(((), (), ("--live",))):
        folder = tmp_path / str(number)
        assert evaluate(world, *options, "--output", str(folder), *PEERS[:2], EASE) == 0
        found.append(json.loads((folder / FIGURES).read_text("utf-8"))["slices"])
    assert found[0] == found[1] != found[2]


def test_an_adapter_is_measured_beside_the_frozen_encoder_with_a_remark(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(world, tmp_path)
    texts, history, _, popularity = prepared_of(config)
    adapter = tmp_path / "adapter"
    build(config, texts, popularity, history.num_steps(8, 1)).write_adapter(adapter)
    settings = (f"encoder.adapter={adapter}", "--output", str(tmp_path), "--peers")
    assert evaluate(world, *settings, POPULARITY) == 0
    figures = json.loads((tmp_path / FIGURES).read_text("utf-8"))
    assert list(figures["slices"]["all items"]["rivals"]) == [POPULARITY, FROZEN, ADAPTED]
    (remark,) = figures["remarks"]
    assert remark.startswith(f"{ADAPTED}: what it was adapted to may hold visits")
    assert remark in capsys.readouterr().out
    assert f"{ADAPTED} ahead on NDCG@10 by" in (tmp_path / "report.md").read_text("utf-8")


def test_the_past_is_written_as_interactions_that_can_be_adapted_to(
    world: Path, tmp_path: Path
) -> None:
    """It is the history without the later visits: nothing of it is measured on."""
    assert evaluate(world, "--output", str(tmp_path), "--peers") == 0
    past = Behaviour.from_batches(
        [
            rewarded(
                read_interactions(InteractionSource(path=tmp_path / PAST))[0],
                RewardMap.from_config(RewardSection()),
            )
        ],
        {f"i{row}": row for row in range(32)},
    )
    history = pq.read_table(world / "history.parquet")
    assert 0 < len(past) < len(history)
    earliest = sorted(history["timestamp"].to_pylist())[: len(past)]
    assert past.timestamps.tolist() == pytest.approx(earliest)
    assert (past.rewards == 1.0).all()


def refusal(world: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a wrong command ends with."""
    assert evaluate(world, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("training.evaluate: ")
    return said


def test_what_cannot_be_measured_is_one_clear_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ("--output", str(tmp_path))
    assert "there is no release 'nowhere': neither a folder" in refusal(
        world, capsys, *to, "--release", "nowhere"
    )
    assert "at least 0 and below 1, got 1.0; try 0.2" in refusal(
        world, capsys, *to, "--cold-share", "1"
    )
    assert "--visits must be at least 1, got 0" in refusal(world, capsys, *to, "--visits", "0")
    assert "--seed must be at least 0, got -1" in refusal(world, capsys, *to, "--seed", "-1")
    assert "no peer 'ALSO'; there are: popularity" in refusal(world, capsys, *to, "--peers", "ALSO")
    assert "cannot be written" in refusal(world, capsys, "--output", str(world / "rove.yaml" / "x"))
    one = tmp_path / "one.parquet"
    pq.write_table(pq.read_table(world / "history.parquet").slice(0, 6), one)
    assert "interactions of one user at most" in refusal(
        world, capsys, f"data.interactions.path={one}", *to
    )
    assert "data.interactions is missing" in refusal(world, capsys, "data.interactions=null", *to)
    assert "interactions of one user at most" in refusal(world, capsys, "--ledger", *to)
