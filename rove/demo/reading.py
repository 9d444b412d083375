"""Which language model reads the items: the one as it is, or the one adapted to the history.

`training.adapt` trains an adapter on the history and keeps it only if held-out visits at the end
of the history are then ranked better; nothing of the replay is looked at.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from rove.config import Config
from rove.release import ADAPTED_NDCG, FROZEN_NDCG, Release

SETTINGS = ("adapt.epochs=1", "training.adapter=if_better")
"""One epoch: a second one ranks no better on the example shop, and takes another minute."""
NO_PEFT = (
    "nothing was adapted: peft is not installed; `make setup` installs it, or pip install "
    "'rove[adapt]'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The release's language model, and why it is that one."""

    adapted: bool
    adapted_ndcg: float | None
    """NDCG@10 on held-out visits of the history."""
    frozen_ndcg: float | None
    note: str | None = None
    """Why there was nothing to choose from."""

    def line(self) -> str:
        """Say it in a line."""
        which = "adapted to the history" if self.adapted else "as it is"
        if self.adapted_ndcg is None or self.frozen_ndcg is None:
            why = self.note or "the history is too short to compare on"
        else:
            why = (
                f"NDCG@10 on the history's held-out end: adapted {self.adapted_ndcg:.4f}, "
                f"as it is {self.frozen_ndcg:.4f}"
            )
        return f"language model: {which} ({why})"


def job(config: Config, path: Path) -> tuple[str, ...]:
    """Return the command that makes the release; without its report: the replay measures it."""
    module = "training.adapt" if _can_adapt(config) else "training.factorise"
    return (module, str(path), "--no-report")


def reading_of(config: Config, release: Release) -> Reading:
    """Return which language model a release of `job` has."""
    return Reading(
        adapted=(release.encoder_folder / "adapter").is_dir(),
        adapted_ndcg=release.metrics.get(ADAPTED_NDCG),
        frozen_ndcg=release.metrics.get(FROZEN_NDCG),
        note=None if _can_adapt(config) else NO_PEFT,
    )


def _can_adapt(config: Config) -> bool:
    return config.adapt.method == "houlsby" or importlib.util.find_spec("peft") is not None
