"""The page: what was killed, what was acknowledged, what was found."""

from __future__ import annotations

import datetime
import os
import platform
from statistics import median

from benchmarks.chaos.kills import Kill
from benchmarks.chaos.running import Report


def page(command: str, report: Report) -> str:
    """Return a section of Markdown."""
    heard, findings = report.heard, report.findings
    retried = heard.num_retried / max(heard.num_calls, 1)
    rows = [
        ("processes killed", f"{len(report.kills)}"),
        ("calls answered", f"{heard.num_calls:,} ({report.rate:,.0f}/s of {report.capacity:,.0f})"),
        ("of them after a retry", f"{100 * retried:.2f} %"),
        ("calls that failed", f"{len(heard.failures)}"),
        ("events acknowledged", f"{findings.num_acknowledged:,}"),
        ("events in the ledger", f"{findings.num_stored:,}"),
        ("- missing, twice, unasked, misplaced", _places(report)),
        ("decisions acknowledged", f"{findings.num_decisions:,}"),
        ("- missing, or not as acknowledged", f"{findings.num_other_decisions}"),
        ("posteriors compared", f"{findings.num_profiles:,}"),
        ("- differing (> 1e-6)", f"{findings.num_differing}"),
        ("- largest difference", f"{findings.max_difference:.1e}"),
        ("item statistics: largest miscount", f"{findings.max_miscount:.1e}"),
    ]
    lines = [_head(command, report), "", "| what | figure |", "| --- | --- |"]
    lines += [f"| {name} | {figure} |" for name, figure in rows]
    lines += ["", "| killed | times | first good answer after, s: median | max |"]
    lines += ["| --- | --- | --- | --- |", *_recoveries(report.kills)]
    lines += [f"\nFailed: {failure}" for failure in heard.failures[:5]]
    return "\n".join(lines) + "\n"


def _head(command: str, report: Report) -> str:
    return (
        f"`{command}`, {datetime.date.today().isoformat()}, {os.cpu_count()} cores "
        f"({platform.machine()}), the clients on the same cores: {report.store}, "
        f"{report.num_shards} shards, {report.num_gateways} gateway, "
        f"{report.duration_s / 60:g} minutes."
    )


def _places(report: Report) -> str:
    found = report.findings
    numbers = (found.num_missing, found.num_twice, found.num_unasked, found.num_misplaced)
    return ", ".join(map(str, numbers))


def _recoveries(kills: list[Kill]) -> list[str]:
    lines = []
    for what in ("shard", "gateway", "encoder", "store"):
        those = [kill for kill in kills if kill.what == what]
        times = [kill.recovered_s for kill in those if kill.recovered_s is not None]
        if those:
            never = len(those) - len(times)
            number = f"{len(those)}" + (f" ({never} never)" if never else "")
            figures = f"{median(times):.2f} | {max(times):.2f}" if times else "- | -"
            lines.append(f"| {what} | {number} | {figures} |")
    return lines
