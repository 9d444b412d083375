"""The ledger when things break: killed processes, full disks, locked, foreign and missing files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, update

import rove
from rove.config import StoreSection
from rove.errors import ConfigError, StoreUnavailable
from rove.events import Interaction, InteractionType
from rove.ledger.ledger import Ledger, StoredInteraction
from rove.ledger.scan import all_interactions
from rove.ledger.schema import SCHEMA_VERSION, ledger_meta
from rove.ledger.store import open_store

ROOT = Path(rove.__file__).parents[1]

# Writes transactions of three interactions, a statistic that counts them and a line per commit.
WRITER = """
import sys
import numpy as np
from rove.config import StoreSection
from rove.errors import StoreUnavailable
from rove.events import Interaction, InteractionType
from rove.ledger.ledger import Ledger, Statistics, StoredInteraction

def one(name):
    interaction = Interaction(interaction_id=name, user_id="ann", item_id="apple",
                              type=InteractionType.CLICK, timestamp=1.0, text="x" * 500)
    return StoredInteraction(interaction=interaction, reward=1.0, status="accepted",
                             received_at=1.0)

def write(ledger, number):
    count = np.array([3.0 * (number + 1)])
    with ledger.transaction() as transaction:
        transaction.add_interactions([one(f"{number}-{part}") for part in range(3)])
        rows = Statistics(item_ids=["apple"], weight=count, total=count, as_of=count)
        transaction.add_statistics("r1", rows)
    print(number, flush=True)

store = StoreSection(url="sqlite:///" + sys.argv[1], durability="process", busy_timeout_s=0.2)
"""


def run_python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def store_in(folder: Path) -> StoreSection:
    return StoreSection(url=f"sqlite:///{folder}", durability="process", busy_timeout_s=0.2)


def stored(interaction_id: str) -> StoredInteraction:
    return StoredInteraction(
        interaction=Interaction(
            interaction_id=interaction_id,
            user_id="ann",
            item_id="apple",
            type=InteractionType.CLICK,
            timestamp=1.0,
            text="x" * 500,
        ),
        reward=1.0,
        status="accepted",
        received_at=1.0,
    )


def add(ledger: Ledger, interaction_id: str) -> None:
    with ledger.transaction() as transaction:
        transaction.add_interactions([stored(interaction_id)])


@pytest.mark.parametrize("num_commits", [1, 40, 300])
def test_what_a_killed_process_acknowledged_is_there_once(tmp_path: Path, num_commits: int) -> None:
    """Of a transaction all three rows or none are there, and the statistic counts them."""
    code = "import itertools\nledger = Ledger.open(store, 0, 1)\n"
    code += "for number in itertools.count(): write(ledger, number)\n"
    writer = run_python(WRITER + code, tmp_path)
    assert writer.stdout is not None
    for _ in range(num_commits):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = num_commits + len(writer.stdout.read().split())
    writer.stdout.close()
    writer.wait()

    ledger = Ledger.open(store_in(tmp_path), 0, 1)
    num_rows = len(ledger.history("ann"))
    assert num_rows in (3 * acknowledged, 3 * acknowledged + 3)
    assert ledger.statistics("r1").weight.tolist() == [num_rows]
    with ledger.transaction() as transaction:
        ids = [f"{number}-{part}" for number in range(acknowledged) for part in range(3)]
        assert transaction.known_interactions(ids) == set(ids)


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """The process may write files of at most 600 kB, until the limit is lifted."""
    code = """
import resource
ledger = Ledger.open(store, 0, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
number = 0
try:
    while True:
        write(ledger, number)
        number += 1
except StoreUnavailable as error:
    print("refused", error.fields["reason"], "nothing of this request was stored" in str(error))
assert len(ledger.history("ann")) == 3 * number
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(ledger, number)
assert len(ledger.history("ann")) == 3 * number + 3
"""
    writer = run_python(WRITER + code, tmp_path)
    output, _ = writer.communicate()
    assert writer.returncode == 0
    assert "refused SQLITE_IOERR_WRITE True" in output
    numbers = [int(line) for line in output.splitlines() if not line.startswith("refused")]
    assert numbers == list(range(len(numbers)))
    ledger = Ledger.open(store_in(tmp_path), 0, 1)
    assert len(ledger.history("ann")) == 3 * len(numbers)
    assert ledger.statistics("r1").weight.tolist() == [3.0 * len(numbers)]


@contextmanager
def files_of_at_most(num_pages: int) -> Iterator[None]:
    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {num_pages}")

    event.listen(Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(Engine, "connect", limit)


def test_a_database_that_is_full_refuses_and_stays_readable(tmp_path: Path) -> None:
    with files_of_at_most(30):
        ledger = Ledger.open(store_in(tmp_path), 0, 1)
        num_stored = 0
        with pytest.raises(StoreUnavailable, match=re.escape("free space on its disk")) as caught:
            while True:
                add(ledger, f"i{num_stored}")
                num_stored += 1
    assert caught.value.fields == {"reason": "SQLITE_FULL"}
    assert len(ledger.history("ann")) == num_stored > 10
    ledger.close()
    ledger = Ledger.open(store_in(tmp_path), 0, 1)
    add(ledger, f"i{num_stored}")
    assert len(ledger.history("ann")) == num_stored + 1


def test_a_locked_file_is_reported(tmp_path: Path) -> None:
    ledger = Ledger.open(store_in(tmp_path), 0, 1)
    other = sqlite3.connect(tmp_path / "shard-0.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=re.escape("another process holds it")):
        add(ledger, "i1")
    other.execute("ROLLBACK")
    other.close()
    add(ledger, "i1")


def test_the_folder_is_created(tmp_path: Path) -> None:
    add(Ledger.open(store_in(tmp_path / "a" / "b c?#%"), 0, 1), "i1")
    assert (tmp_path / "a" / "b c?#%" / "shard-0.sqlite").exists()


def test_a_relative_folder_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Ledger.open(StoreSection(url="sqlite:///ledger"), 0, 1).close()
    assert (tmp_path / "ledger" / "shard-0.sqlite").exists()


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match=re.escape("cannot be created: Not a directory")):
        Ledger.open(store_in(tmp_path / "file" / "ledger"), 0, 1)


def test_a_folder_that_vanished_is_reported_before_anything_is_lost(tmp_path: Path) -> None:
    ledger = Ledger.open(store_in(tmp_path / "ledger"), 0, 1)
    shutil.rmtree(tmp_path / "ledger")
    with pytest.raises(StoreUnavailable, match=re.escape("No such file or directory; restore it")):
        add(ledger, "i1")
    Ledger.open(store_in(tmp_path / "ledger"), 0, 1).close()
    with pytest.raises(StoreUnavailable, match=re.escape("was replaced while it was open")):
        add(ledger, "i1")


def test_a_read_only_folder_is_reported() -> None:
    """As root nothing is read-only, so the process gives its rights up first."""
    code = """
import os
if os.geteuid() == 0: os.seteuid(65534)
for shard in range(2):
    try:
        Ledger.open(store, shard, 2)
    except StoreUnavailable as error:
        print(error)
"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Ledger.open(store_in(folder), 0, 2).close()
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555)
        process = run_python(WRITER + code, folder)
        output, _ = process.communicate()
        folder.chmod(0o755)
    assert process.returncode == 0
    refused = "cannot be opened for writing: Permission denied; make the store's folder writable"
    assert [refused in line for line in output.splitlines()] == [True, True]


def test_a_foreign_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "shard-0.sqlite").write_text("this is a letter, not a database" * 100)
    with pytest.raises(StoreUnavailable, match=re.escape("the file is no SQLite database")):
        Ledger.open(store_in(tmp_path), 0, 1)


@pytest.mark.parametrize(
    ("version", "advice"),
    [("2", "run `rove db upgrade CONFIG`"), ("99", "use the Rove that wrote it")],
)
def test_another_schema_version_is_refused(store: StoreSection, version: str, advice: str) -> None:
    Ledger.open(store, 0, 2).close()
    with closing(open_store(store)) as opened:
        with opened.open("shard-0", "write").transaction() as connection:
            key = ledger_meta.c.key == "schema_version"
            connection.execute(update(ledger_meta).where(key).values(value=version))
    message = f"has schema version {version}, this Rove reads {SCHEMA_VERSION}; "
    for shard in range(2):
        with pytest.raises(StoreUnavailable, match=re.escape(message) + ".*" + re.escape(advice)):
            Ledger.open(store, shard, 2)
    with pytest.raises(StoreUnavailable, match=re.escape(message)):
        list(all_interactions(store))


def test_a_file_without_tables_is_finished(tmp_path: Path) -> None:
    """A process that ended while it created the file leaves it empty."""
    sqlite3.connect(tmp_path / "shard-0.sqlite").close()
    (tmp_path / "shard-1.sqlite").touch()
    assert list(all_interactions(store_in(tmp_path))) == []
    ledger = Ledger.open(store_in(tmp_path), 0, 2)
    assert ledger.statistics_of_others("r1", {}) == {}
    add(ledger, "i1")


def test_a_refused_opening_leaves_no_lock_behind(tmp_path: Path) -> None:
    Ledger.open(store_in(tmp_path), 0, 1).close()
    with pytest.raises(ConfigError, match=re.escape("was written with 1 shards")):
        Ledger.open(store_in(tmp_path), 0, 2)
    Ledger.open(store_in(tmp_path), 0, 1).close()
