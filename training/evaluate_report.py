"""What the report of an evaluation says, and its figures for programs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rove.config import Config
from rove.evaluation import tables
from rove.evaluation.measuring import Result
from rove.evaluation.peers import Peers
from rove.evaluation.slices import HISTORIES
from training.report import Line, Plot, Report

FIGURES = "figures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command was asked for, besides the configuration."""

    from_ledger: bool = False
    releases: tuple[str, ...] = ()
    """Folders or ids."""
    cold_share: float = 0.0
    live: bool = False
    max_visits: int | None = None
    peers: tuple[str, ...] | None = None
    seed: int = 0
    output: Path | None = None


def write_report(
    config: Config,
    request: Request,
    output: Path,
    result: Result,
    peers: Peers,
    remarks: Sequence[str],
    duration_s: float,
) -> list[Path]:
    """Write `report.md`, `figures.json` and the configuration; return the first two."""
    reference = list(result.answers)[-1]
    figures = {of.name: tables.slice_table(result, of, reference) for of in result.slices}
    report = Report(
        title=f"Evaluation of {config.name}",
        results=_results(result, request, remarks, duration_s),
        plot=_plot(result),
        tables={
            **{tables.heading(of): figures[of.name] for of in result.slices},
            "Predicted and taken": tables.reliability_table(result),
            "How peers were set": (
                ("", "settings"),
                [
                    (name, ", ".join(f"{key} {value:g}" for key, value in settings.items()))
                    for name, settings in peers.settings.items()
                    if settings
                ],
            ),
        },
        settings={
            "training.holdout_share": config.training.holdout_share,
            "cold share": request.cold_share,
            "live": request.live,
            "seed": request.seed,
            "encoder.model": config.encoder.model,
            "encoder.adapter": config.encoder.adapter,
            "releases": ", ".join(request.releases),
        },
    )
    path = report.write(output)
    config.write(output)
    figures_of_all = {
        **tables.numbers(result),
        "settings": peers.settings,
        "remarks": list(remarks),
        "seed": request.seed,
        "cold_share": request.cold_share,
        "live": request.live,
        "duration_s": duration_s,
    }
    (output / FIGURES).write_text(json.dumps(figures_of_all, indent=1) + "\n", "utf-8")
    return [path, output / FIGURES]


def _results(
    result: Result, request: Request, remarks: Sequence[str], duration_s: float
) -> list[tuple[str, str]]:
    split = result.split
    cut = datetime.datetime.fromtimestamp(float(split.future.timestamps.min()), datetime.UTC)
    seen = "observe each visit afterwards" if request.live else "do not learn from later visits"
    return [
        ("learnt from", f"{len(split.past):,} interactions before {cut:%Y-%m-%d %H:%M} UTC"),
        ("measured on", f"{len(split.requests):,} later visits; rivals {seen}"),
        ("items", f"{split.num_items:,}, of which {int(split.cold_J.sum()):,} cold"),
        ("ranked", "everything new to the user, no samples; 95 % intervals resample users"),
        ("calibration", "predicted over taken, 1 is right; n/a: scores without a scale"),
        ("time", f"{duration_s:.0f} s"),
        *(("remark", remark) for remark in remarks),
    ]


def _plot(result: Result) -> Plot:
    """NDCG@10 by what is known of the user."""
    of_history = [of for of in result.slices if of.name in HISTORIES]
    place = {name: number for number, name in enumerate(HISTORIES)}
    lines = [
        Line(
            label=rival,
            x=[place[of.name] for of in of_history],
            y=[float(result.values(rival, of, "NDCG@10").mean()) for of in of_history],
        )
        for rival in result.answers
    ]
    return Plot(
        file="histories.svg",
        alt="NDCG@10 by how many items are known of the user",
        x="items known of the user: 0, 1-2, 3-10, more",
        panels={"NDCG@10": lines},
    )
