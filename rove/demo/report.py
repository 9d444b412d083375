"""The results for people: a table on the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from rove.demo.results import LEARNING, Results, Row
from rove.ranking import Interval


def table(results: Results) -> Table:
    """Return the table of precision, worst first."""
    drawn = Table(
        title=f"precision@{results.k} on {results.num_requests:,} invoices with something new, "
        f"after {results.cut[:10]}",
        caption="95 % intervals over customers. The last column compares request by request.",
    )
    drawn.add_column("recommender")
    drawn.add_column(f"precision@{results.k}", justify="right")
    drawn.add_column("95 % interval", justify="right")
    drawn.add_column(f"NDCG@{results.k}", justify="right")
    drawn.add_column(f"{LEARNING} is better by", justify="right")
    for row in sorted(results.rows, key=lambda row: row.precision.mean):
        style = "bold green" if row.name == LEARNING else ""
        drawn.add_row(
            row.name,
            f"{row.precision.mean:.4f}",
            _range(row.precision),
            f"{row.ndcg:.4f}",
            _difference(row),
            style=style,
        )
    return drawn


def lines(results: Results) -> list[str]:
    """Return what there is to say beside the table."""
    http = results.http
    told = [
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
    return f"{interval.low:.4f} to {interval.high:.4f}"


def _difference(row: Row) -> Text | str:
    if row.behind is None:
        return ""
    text = f"{row.behind.mean:+.4f} ({row.behind.low:+.4f} to {row.behind.high:+.4f})"
    if row.behind.low > 0:
        return Text(text, style="green")
    return Text(text, style="red") if row.behind.high < 0 else text
