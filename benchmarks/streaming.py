"""What memory the reading and tokenising of a corpus takes, by format and size.

    python -m benchmarks.streaming [--items FILE] [--title COLUMN] [--megabytes 30 300]

Texts of a catalogue, repeated, become one file of each format and size; `training.corpus` makes
token rows of it on a local Ray cluster with two CPUs, as `training.pretrain` does. Every tenth of
a second /proc says what the processes hold: private memory (RssAnon) of this one and of all others
of the cluster, and the object store's pages (RssShmem). What they held before is taken off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq
import ray
from tokenizers import Tokenizer, models, pre_tokenizers

from rove.config import Config
from training import corpus
from training.sources import sources

_ROWS_TOGETHER = 50_000
_MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that processes hold."""

    own: int
    others: int
    store: int


class Sampler:
    """The most that this process and those it started held at once, beyond what they did before."""

    def __enter__(self) -> Sampler:
        self._before = _now()
        self.most = Memory(own=0, others=0, store=0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            now, before, most = _now(), self._before, self.most
            self.most = Memory(
                own=max(most.own, now.own - before.own),
                others=max(most.others, now.others - before.others),
                store=max(most.store, now.store - before.store),
            )


def _now() -> Memory:
    own, others, store = 0, 0, 0
    for pid in _tree(os.getpid()):
        fields = _fields(pid)
        anonymous = fields.get("RssAnon", 0)
        if pid == os.getpid():
            own = anonymous
        else:
            others += anonymous
        store = max(store, fields.get("RssShmem", 0))
    return Memory(own=own, others=others, store=store)


def _tree(root: int) -> list[int]:
    """Return the process and all that it started, directly or not."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        parent = _fields(int(folder.name)).get("PPid", 0)
        children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _fields(pid: int) -> dict[str, int]:
    """Return the process's numbers, sizes in bytes; none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, value = line.partition(":")
        number = value.removesuffix(" kB").strip()
        if number.isdigit():
            found[name] = int(number) * (1024 if value.endswith(" kB") else 1)
    return found


def write_corpus(texts: Sequence[str], path: Path, size_bytes: int) -> None:
    """Write texts, repeated and numbered, until they have so many bytes."""
    schema = pa.schema([("text", pa.string())])
    with path.open("wb") as sink:
        if path.suffix == ".jsonl":
            for batch in _batches(texts, size_bytes):
                lines = (json.dumps({"text": text}, ensure_ascii=False) for text in batch)
                sink.write("".join(f"{line}\n" for line in lines).encode())
            return
        writer = (
            pq.ParquetWriter(sink, schema)
            if path.suffix == ".parquet"
            else pa.csv.CSVWriter(sink, schema)
        )
        with writer:
            for batch in _batches(texts, size_bytes):
                writer.write_table(pa.table([batch], schema=schema))


def _batches(texts: Sequence[str], size_bytes: int) -> Iterator[list[str]]:
    endless = (f"{text} {i}" for i, text in enumerate(itertools.cycle(texts)))
    written = 0
    while written < size_bytes:
        batch = list(itertools.islice(endless, _ROWS_TOGETHER))
        written += sum(len(text.encode()) for text in batch)
        yield batch


def measure(path: Path, tokenizer: str) -> tuple[Memory, float, corpus.Summary]:
    """Tokenise one file; return what it took, in bytes and seconds, and what came out."""
    config = Config.parse({"name": "bench", "pretrain": {"texts": [{"path": str(path)}]}})
    files = pyarrow.fs.LocalFileSystem()
    with tempfile.TemporaryDirectory() as folder, Sampler() as sampler:
        start = time.perf_counter()
        summary = corpus.tokenise(
            sources(config), tokenizer, files, folder, max_tokens=128, holdout_share=0.02
        )
        duration_s = time.perf_counter() - start
    return sampler.most, duration_s, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--items", type=Path, default=Path("examples/shop/items.parquet"))
    parser.add_argument("--title", default="description", help="column with text")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[30, 300])
    options = parser.parse_args(arguments)
    texts = [str(one) for one in pq.read_table(options.items)[options.title].to_pylist() if one]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:  # workers start, and import what they need
        write_corpus(texts, Path(folder) / "first.parquet", 1)
        measure(Path(folder) / "first.parquet", backend.to_str())
    print("| file | MB | texts | s | this process, MB | Ray's processes, MB | object store, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size, suffix in itertools.product(options.megabytes, ("jsonl", "csv", "parquet")):
            path = Path(folder) / f"corpus.{suffix}"
            write_corpus(texts, path, int(size * _MB))
            most, duration_s, summary = measure(path, backend.to_str())
            figures = (most.own / _MB, most.others / _MB, most.store / _MB)
            print(
                f"| {suffix} | {size:,} | {summary.num_texts:,} | {duration_s:.0f} | "
                + " | ".join(f"{figure:,.0f}" for figure in figures)
                + " |",
                flush=True,
            )
            path.unlink()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
