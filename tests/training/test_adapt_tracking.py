"""What an adaptation's steps come to, what the workers tell, and the report of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rove.adaptation.fitting import build
from rove.adaptation.run import Run
from rove.config import Config
from tests.colours import config_of, prepared_of, write_data, write_encoder
from training.adapt_meter import Meter
from training.adapt_report import NONE, best_of, write_report
from training.news import News, Teller, peak_memory_mb

CPU = torch.device("cpu")


class Box:
    """An actor's handle without the actor: `box.add.remote(messages)`."""

    def __init__(self) -> None:
        self.news = News()
        self.add = self

    def remote(self, messages: list[dict[str, Any]]) -> None:
        """Call the method."""
        self.news.add(messages)


def test_the_first_worker_tells_and_the_others_are_silent() -> None:
    box = Box()
    for speaks in (True, False):
        teller = Teller(box, speaks)
        teller.start(0, 9, "on cpu", {"device": "cpu"})
        teller.step(1, {"loss": 1.0, "num_tokens": 5.0, "padding": 0.0, "seconds": 0.1}, CPU)
        teller.send()
    assert [message["kind"] for message in box.news.take()] == ["start", "step"]
    assert box.news.take() == []


def test_peak_memory_grows_with_what_is_used() -> None:
    """200 MB of ones, when the process has at least so much."""
    before = peak_memory_mb(CPU)
    filled = np.ones(25_000_000 + int(before) * 131_072)
    assert peak_memory_mb() > before + 150
    assert filled[0] == 1.0


def test_every_step_is_told_with_its_tokens_and_its_time(tmp_path: Path) -> None:
    """A text is [CLS] size colour thing [SEP], so 16 items of a step are 80 tokens, and none of
    them is longer than another."""
    write_encoder(tmp_path / "bert")
    write_data(tmp_path)
    config = config_of(tmp_path, tmp_path)
    texts, history, validation, popularity = prepared_of(config)
    built = build(config, texts, popularity, 10)
    box = Box()
    teller = Teller(box, True)
    meter = Meter(built.objective, teller)
    meter.go_on_from(7)
    run = Run(built.objective, history, validation, step=meter)
    assert run.before().line().startswith("epoch 0: validation loss ")
    epoch = run.epoch()
    teller.send()
    steps = box.news.take()
    assert [one["step"] for one in steps] == [8 + row for row in range(run.total_steps // 2)]
    assert all(one["figures"]["num_tokens"] == 80 for one in steps)
    assert all(one["figures"]["padding"] == 0.0 for one in steps)
    assert all(one["figures"]["seconds"] > 0 for one in steps)
    assert np.mean([one["figures"]["loss"] for one in steps]) == pytest.approx(epoch.loss)


def figures(
    epoch: int, validation_loss: float, served: float, is_best: float = 0.0
) -> dict[str, float]:
    """Return those of an epoch; the one before training has no loss."""
    return {
        "epoch": float(epoch),
        **({"loss": 2.0} if epoch else {}),
        "validation_loss": validation_loss,
        "validation_accuracy": 0.5,
        "served_ndcg_at_10": served,
        "served_new_items_ndcg_at_10": served / 2.0,
        "is_best": is_best,
        "duration_s": 10.0,
    }


def test_an_epoch_that_serves_no_better_is_not_kept(tmp_path: Path) -> None:
    """Its validation loss is lower, but a release with it ranks worse."""
    curve = [figures(1, 2.0, 0.05)]
    assert best_of(curve) is None
    config = Config.parse({"name": "tiny", "adapt": {"path": str(tmp_path)}})
    facts: dict[str, Any] = {"seconds": 0.0, "command_memory_mb": 34.0}
    text = write_report(config, figures(0, 3.0, 0.1), curve, facts, 0.5).read_text("utf-8")
    assert f"| epochs | 1; {NONE} |" in text


def test_the_report_says_what_happened(tmp_path: Path) -> None:
    """300 tokens in 400 places and 2 s; the second of three epochs is the last that was the best so
    far."""
    before, curve = (
        figures(0, 3.0, 0.1),
        [
            figures(1, 2.5, 0.2, is_best=1.0),
            figures(2, 2.25, 0.3, is_best=1.0),
            figures(3, 2.0, 0.25),
        ],
    )
    facts: dict[str, Any] = {"num_trained": 1234, "device": "cpu"}
    facts |= {"memory_mb": 12.0, "command_memory_mb": 34.0, "num_tokens": 300.0, "seconds": 2.0}
    facts["num_places"] = 400.0
    config = Config.parse({"name": "tiny", "adapt": {"path": str(tmp_path)}})
    text = write_report(config, before, curve, facts, 0.5).read_text("utf-8")
    for line in (
        "| epochs | 3; the 2. serves best and was kept |",
        "| validation loss, before -> after | 3.0000 -> 2.2500 |",
        "| NDCG@10 of a release, before -> after | 0.1000 -> 0.3000 |",
        "| the same of new items | 0.0500 -> 0.1500 |",
        "| time in epochs | 0:30 |",
        "| trained parameters | 1,234 on cpu |",
        "| items' tokens/s in steps | 150 |",
        "| padding | 25.0% |",
        "| peak memory of a worker | 12 MB |",
        "| peak memory of the command | 34 MB |",
        "| 0 |  | 3.0000 | 0.1000 | 0.0500 | 0.5000 | 10.0 |",
        "| `method` | `lora` |",
    ):
        assert line in text
    assert (tmp_path / "epochs.svg").exists() == ("(epochs.svg)" in text)
