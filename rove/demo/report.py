"""The results for people: a table on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from rove.demo.results import LEARNING, Results, Row
from rove.ranking import Interval


def table(results: Results) -> Table:
    """Return the table of precision, worst first."""
    drawn = Table(
        title=f"precision@{results.k} on {results.num_requests:,} invoices with something new, "
        f"from {results.cut[:10]} on",
        title_justify="left",
        caption=results.reading.line(),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    drawn.add_column("recommender", no_wrap=True)
    drawn.add_column("precision", justify="right", no_wrap=True)
    drawn.add_column("95 %", justify="right", no_wrap=True)
    drawn.add_column(f"{LEARNING} is ahead by", justify="right", no_wrap=True)
    for row in sorted(results.rows, key=lambda row: row.precision.mean):
        style = "bold green" if row.name == LEARNING else ""
        mean, within = f"{row.precision.mean:.4f}", _range(row.precision)
        drawn.add_row(row.name, mean, within, _difference(row), style=style)
    return drawn


def lines(results: Results) -> list[str]:
    """Return what there is to say beside the table."""
    http = results.http
    told = [
        "Intervals resample whole customers; the last column compares request by request.",
        f"{results.num_invoices:,} invoices replayed in {http.duration_s:.1f} s: "
        f"{http.requests_per_s:,.0f} requests/s; "
        f"rank p50 {http.rank.p50_ms:.1f} ms, p99 {http.rank.p99_ms:.1f} ms; "
        f"events p50 {http.events.p50_ms:.1f} ms, p99 {http.events.p99_ms:.1f} ms; "
        f"{http.num_retries} retries",
        "interactions posted: "
        + ", ".join(f"{count:,} {status}" for status, count in sorted(http.outcomes.items())),
    ]
    told += [f"no {name}: {reason}" for name, reason in results.missing.items()]
    return told


def _range(interval: Interval) -> str:
    return f"{interval.low:.4f}-{interval.high:.4f}"


def _difference(row: Row) -> Text | str:
    if row.behind is None:
        return ""
    text = f"{row.behind.mean:+.4f} [{row.behind.low:.4f}, {row.behind.high:.4f}]"
    if row.behind.low > 0:
        return Text(text, style="green")
    return Text(text, style="red") if row.behind.high < 0 else text
