"""Tuned peers and Rove's one default in every environment; see `benchmarks/decisions.md`.

python -m benchmarks.decisions --data FOLDER

Without --data only the shop is played. Finished runs are kept in --out and not played again. What
`benchmarks.decisions.text` and `benchmarks.decisions.ceiling` left in --out joins the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

import benchmarks.decisions.environments as environments
from benchmarks.decisions.data import Sources
from benchmarks.decisions.playing import (
    Results,
    is_finished,
    known_peers,
    names_of,
    play_all,
    playable,
    reported,
    tuned,
)
from benchmarks.decisions.tables import Row, plot, table

ALSO = {
    "text": "With and without text",
    "ceiling": "What is reachable",
}
"""Tables of other commands, by file, with their titles."""
ONLY_ASKED = ("rove-engine",)
"""Peers that play only when --peers names them: they show something else."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with one folder a data set")
    parser.add_argument("--set", action="append", default=[], metavar="ENVIRONMENT=FOLDER")
    parser.add_argument("--environments", help="comma-separated; all if absent")
    parser.add_argument("--peers", help="comma-separated; all if absent")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dev-seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="play nothing, show what there is")
    parser.add_argument("--out", type=Path, default=Path("outputs/decisions"))
    parser.add_argument("--write", type=Path, metavar="FILE", help="copy the tables there too")
    given = parser.parse_args()
    folders = tuple((name, folder) for name, _, folder in (s.partition("=") for s in given.set))
    sources = Sources(data=given.data, cache=Path("outputs/bench-cache"), folders=folders)
    known, lacking = known_peers()
    for name, reason in lacking.items():
        print(f"peers/{name} is left out: {reason}")
    asked = _known(given.peers, list(known), "peer") if given.peers else _usual(known)
    chosen = {name: known[name] for name in asked}
    all_names = names_of(environments)
    wanted = (
        _known(given.environments, all_names, "environment") if given.environments else all_names
    )
    results = Results(given.out)
    pairs = list(playable(wanted, chosen, sources))
    if given.finished:
        pairs = [
            (name, peer)
            for name, peer in pairs
            if is_finished(name, peer, sources, results, given.dev_seeds, given.seeds)
        ]
    if not pairs:
        raise SystemExit("none of the peers can play any of the environments")
    best = tuned(pairs, sources, results, num_dev_seeds=given.dev_seeds, num_processes=given.jobs)
    jobs = {pair: reported(pair, settings, sources, given.seeds) for pair, settings in best.items()}
    play_all([job for some in jobs.values() for job in some], sources, results, given.jobs)
    rows = [
        Row(
            environment=environment,
            peer=peer,
            settings=best[environment, peer],
            played=[results.of(job) for job in some],
        )
        for (environment, peer), some in jobs.items()
    ]
    text = (
        f"{date.today().isoformat()}, `python -m benchmarks.decisions {' '.join(sys.argv[1:])}`; "
        f"{given.seeds} seeds, tuned on {given.dev_seeds} others\n\n{table(rows)}\n"
    ) + "".join(_also(given.out))
    for path in filter(None, (given.out / "decisions.md", given.write)):
        path.write_text(text, "utf-8")
    plot(rows, given.out / "decisions.png")
    print(text)


def _usual(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in ONLY_ASKED]


def _also(folder: Path) -> Iterator[str]:
    """Yield the tables that other commands left in the folder."""
    for name, title in ALSO.items():
        path = folder / f"{name}.md"
        if path.exists():
            yield f"\n## {title}\n\n{path.read_text('utf-8')}"


def _known(names: str, known: list[str], what: str) -> list[str]:
    wanted = names.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"there is no {what} {unknown[0]}; known: {', '.join(sorted(known))}")
    return wanted


if __name__ == "__main__":
    main()
