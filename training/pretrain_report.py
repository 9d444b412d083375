"""What the report of a pretraining run says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rove.config import Config
from training.progress import clock
from training.report import Line, Plot, Report

Points = Sequence[dict[str, float]]


def write_report(
    folder: Path, config: Config, state: dict[str, Any], facts: dict[str, Any]
) -> Path:
    """Write `report.md` and its plot from the last checkpoint's `state`; return its path."""
    curve, held_out = state["curve"], state["held_out"]
    settings = config.pretrain.model_dump(mode="json")
    rows = [(f"{int(one['step']):,}", f"{one['loss']:.4f}") for one in held_out]
    return Report(
        title=f"Pretraining of {config.name}",
        results=_results(curve, held_out, facts),
        plot=_plot(curve, held_out),
        tables={"Held-out loss": (("step", "nats per predicted token"), rows)},
        settings={"encoder.model": config.encoder.model, **settings},
    ).write(folder)


def _results(curve: Points, held_out: Points, facts: dict[str, Any]) -> list[tuple[str, str]]:
    tokens = sum(one["num_tokens"] for one in curve)
    seconds = sum(one["seconds"] for one in curve)
    places = sum(one["num_tokens"] / (1 - one["padding"]) for one in curve)
    last = curve[-max(1, len(curve) // 20) :]
    rows = [
        ("steps", f"{len(curve):,}"),
        ("tokens, without padding", f"{tokens:,.0f}"),
        ("tokens/s", f"{tokens / seconds:,.0f}"),
        ("padding", f"{1 - tokens / places:.1%}"),
        ("time in steps", clock(seconds)),
        ("loss of the first step", f"{curve[0]['loss']:.4f}"),
        ("mean loss of the last steps", f"{sum(one['loss'] for one in last) / len(last):.4f}"),
    ]
    if held_out:
        pair = f"{held_out[0]['loss']:.4f} -> {held_out[-1]['loss']:.4f}"
        rows.append(("held-out loss, before -> after", pair))
    if facts.get("dtype"):
        rows.append(("computed in", f"{facts['dtype']} on {facts['device']}"))
        rows.append(("peak memory of a worker", f"{facts['memory_mb']:,.0f} MB"))
        rows.append(("peak memory of the command", f"{facts['command_memory_mb']:,.0f} MB"))
    return rows


def _plot(curve: Points, held_out: Points) -> Plot:
    lines = [_line("train", curve, marked=False)]
    if held_out:
        lines.append(_line("held out", held_out, marked=True))
    return Plot(
        file="loss.svg",
        alt="loss by step",
        x="step",
        panels={"nats per predicted token": lines},
    )


def _line(label: str, points: Points, marked: bool) -> Line:
    steps, losses = ([one[key] for one in points] for key in ("step", "loss"))
    return Line(label=label, x=steps, y=losses, marked=marked)
