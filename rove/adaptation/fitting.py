"""Training by epochs: steps over the batches, and how well what came later is predicted.

`train_model` and `evaluate_model` are the two calls of every tutorial's loop; `training.adapt` runs
them on Ray, and they run as well without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rove import ranking
from rove.adaptation import adapters
from rove.adaptation.contrastive import ContrastiveObjective
from rove.adaptation.episodes import Episodes
from rove.adaptation.objectives import Objective, PosteriorObjective
from rove.adaptation.pairs import PairObjective
from rove.adaptation.popularity import Popularity
from rove.adaptation.texts import Texts
from rove.adaptation.tower import Tower
from rove.config import Config
from rove.encoder import digest_of, load_model
from rove.errors import DataError

K = 10
_HEAD_RATE = 30.0  # the few numbers of an objective learn faster than the adapter
_PROJECTION_RATE = 0.3
_CLIP_NORM = 1.0
_WARMUP_SHARE = 0.1

Step = Callable[[Episodes, np.random.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well later interactions are predicted."""

    loss: float
    """Mean of -log of the share that a softmax over all items new to the user gives to what was
    taken, of every objective."""
    ndcg: float
    """NDCG@10 over the whole catalogue."""
    accuracy: float
    """Of `bce`: share of pairs on the right side of 1/2; else share of random items that are
    behind what was taken."""
    num_episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An objective to be trained, and what its adapter belongs to."""

    objective: Objective
    base: str
    """Digest of the frozen model (`rove.encoder.digest_of`)."""

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter's folder."""
        objective = self.objective
        adapters.write(
            folder,
            objective.adapter,
            objective.tower.projection,
            method=objective.section.method,
            base=self.base,
        )


def build(config: Config, texts: Sequence[str], popularity: Popularity, total_steps: int) -> Built:
    """Return an untrained objective over a catalogue of `texts`; the seed is the settings'."""
    section = config.adapt
    torch.manual_seed(section.seed)
    model, tokenizer = load_model(config.encoder)
    base = digest_of(model, tokenizer)
    adapter = adapters.attach(model, section, total_steps)
    tokens = Texts.of(texts, tokenizer, config.encoder.max_tokens)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    tower = Tower(model, tokens, section, config.encoder.batch_tokens)
    if section.start is not None:
        file = adapters.read(section.start, base)
        adapters.load_into(adapter, file, section)
        with torch.no_grad():
            tower.projection.copy_(file.projection_EE)
    if section.objective == "posterior":
        objective: Objective = PosteriorObjective(tower, adapter, popularity, section)
    elif section.objective == "contrastive":
        objective = ContrastiveObjective(tower, adapter, popularity, section)
    else:
        objective = PairObjective(tower, adapter, popularity, section, config.encoder.max_tokens)
    objective.training_section = config.training
    return Built(objective=objective, base=base)


def optimizer_of(objective: Objective) -> torch.optim.AdamW:
    """Return AdamW: no decay on single numbers, a faster rate for the objective's own."""
    section = objective.section
    groups: dict[str, list[nn.Parameter]] = {"adapter": [], "projection": [], "head": []}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            groups[_group(name)].append(parameter)
    rates = {"adapter": 1.0, "projection": _PROJECTION_RATE, "head": _HEAD_RATE}
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": section.learning_rate * rates[name],
                "weight_decay": 0.0 if name == "head" else section.weight_decay,
            }
            for name, parameters in groups.items()
        ]
    )


def schedule_of(
    optimizer: torch.optim.Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear rise over a tenth of the steps, then a cosine to a tenth of the rate."""
    warmup = max(1, int(_WARMUP_SHARE * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        passed = (step - warmup) / max(1, total_steps - warmup)
        return 0.1 + 0.45 * (1.0 + math.cos(math.pi * min(passed, 1.0)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train_model(
    objective: Objective,
    step: Step,
    batches: Iterable[Episodes],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    rng: np.random.Generator,
) -> float:
    """Take one step a batch and return the mean loss of the epoch.

    `step` computes the loss: the objective itself, or what wraps it for several workers.
    """
    objective.train()
    trained = [p for p in objective.parameters() if p.requires_grad]
    total, count = 0.0, 0
    for episodes in batches:
        loss = step(episodes, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, _CLIP_NORM)
        optimizer.step()
        objective.adapter.after_step(schedule.last_epoch)
        schedule.step()
        total, count = total + float(loss.detach()), count + 1
    objective.adapter.settle()
    objective.refresh()
    return total / max(count, 1)


def evaluate_model(
    objective: Objective, batches: Iterable[Episodes], rng: np.random.Generator
) -> Evaluation:
    """Return how well the episodes' queries are predicted, by the vectors of the last refresh."""
    objective.eval()
    losses, gains, right, tried = [], [], 0, 0
    for episodes in batches:
        logits_BJ = objective.scores(episodes)
        log_share_BJ = torch.log_softmax(logits_BJ, 1)
        queries_BQ = torch.from_numpy(episodes.query_BQ).to(logits_BJ.device)
        present_BQ = queries_BQ >= 0
        picked_BQ = log_share_BJ.gather(1, queries_BQ.clamp(min=0))
        losses.append(-(picked_BQ * present_BQ).sum(1) / present_BQ.sum(1))
        ranked_BK = logits_BJ.topk(min(K, logits_BJ.shape[1]), 1).indices.cpu().numpy()
        relevant = [row[row >= 0] for row in episodes.query_BQ]
        hits_BK = ranking.hits(ranked_BK, relevant)
        gains.append(ranking.ndcg(hits_BK, np.array([len(items) for items in relevant]), K))
        if isinstance(objective, PairObjective):
            good, pairs = objective.accuracy(episodes, rng)
        else:
            good, pairs = _in_order(logits_BJ, queries_BQ, rng)
        right, tried = right + good, tried + pairs
    if not losses:
        raise DataError("no later interaction to validate on; raise adapt.validation_share")
    return Evaluation(
        loss=float(torch.cat(losses).mean()),
        ndcg=float(np.concatenate(gains).mean()),
        accuracy=right / max(tried, 1),
        num_episodes=sum(map(len, gains)),
    )


def _in_order(
    logits_BJ: torch.Tensor, queries_BQ: torch.Tensor, rng: np.random.Generator
) -> tuple[int, int]:
    """Count queries that are before a random item new to the user."""
    others = torch.from_numpy(rng.integers(0, logits_BJ.shape[1], queries_BQ.shape))
    present = queries_BQ >= 0
    before = logits_BJ.gather(1, queries_BQ.clamp(min=0)) > logits_BJ.gather(
        1, others.to(logits_BJ.device)
    )
    return int((before & present).sum()), int(present.sum())


def _group(name: str) -> str:
    if name.startswith("tower.model."):
        return "adapter"
    if name == "prior_mean_D":
        return "adapter"
    return "projection" if name.endswith("projection") else "head"
