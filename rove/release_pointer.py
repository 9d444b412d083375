"""Which release is in service: the file `current` beside the releases, and nothing else.

`previous` names those that were in service before, the latest first: what a roll-back goes back to.
Each file is swapped as a whole, so that a reader sees one state or the other; writers take turns. A
writer that is killed between the two leaves the release in service in `previous` too, where it
counts for nothing.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rove.errors import Conflict, NotFound, StoreUnavailable, shown

CURRENT = "current"
PREVIOUS = "previous"
MOST_PREVIOUS = 100
"""Roll-backs are possible over so many promotions."""


def current(releases: Path) -> Path:
    """Return the folder of the release in service."""
    names = _names(releases / CURRENT)
    if not names:
        raise NotFound(
            f"{releases} has no release in service; run python -m training.factorise CONFIG"
        )
    return releases / names[0]


def promote(releases: Path, release_id: str) -> None:
    """Put a release into service: swap the pointer, atomically."""
    check_known(releases, release_id)
    with _taking_turns(releases):
        now = _names(releases / CURRENT)
        if now == [release_id]:
            return
        previous = [*now, *_names(releases / PREVIOUS)][:MOST_PREVIOUS]
        if previous:
            _swap(releases / PREVIOUS, previous)
        _swap(releases / CURRENT, [release_id])


def roll_back(releases: Path, release_id: str) -> str:
    """Take a release out of service again; return the one before it, which is in service now."""
    check_known(releases, release_id)
    with _taking_turns(releases):
        now = current(releases).name
        if now != release_id:
            raise Conflict(
                f"release {shown(release_id)} is not in service, {shown(now)} is; roll that one "
                "back, or promote the one you want",
                in_service=now,
            )
        previous = [name for name in _names(releases / PREVIOUS) if name != now]
        previous = [name for name in previous if _is_release(releases, name)]
        if not previous:
            raise Conflict(
                f"no release that was in service before {shown(release_id)} is left; promote one "
                "of GET /v1/releases"
            )
        _swap(releases / CURRENT, previous[:1])
        _swap(releases / PREVIOUS, previous[1:])
    return previous[0]


def check_known(releases: Path, release_id: str) -> None:
    """Raise `NotFound` unless a release has this id."""
    if not _is_release(releases, release_id):
        raise NotFound(f"there is no release {shown(release_id)} in service or beside it")


def sync_to_disk(path: Path) -> None:
    """Return once the file or folder will survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_release(releases: Path, name: str) -> bool:
    """Say whether `name` is that of a release: one part of a path, and not a hidden one."""
    plain = name.isprintable() and Path(name).name == name and not name.startswith(".")
    return plain and len(name.encode()) < 256 and (releases / name / "release.yaml").is_file()


def _names(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except FileNotFoundError:
        return []


@contextmanager
def _taking_turns(releases: Path) -> Iterator[None]:
    """Let one writer at a time in; what its files refuse is a `StoreUnavailable`."""
    try:
        descriptor = os.open(releases, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreUnavailable(f"{releases}: cannot promote a release: {error}") from error


def _swap(path: Path, names: list[str]) -> None:
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        draft.write_text("".join(f"{name}\n" for name in names), "utf-8")
        sync_to_disk(draft)
        draft.replace(path)
        sync_to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)
