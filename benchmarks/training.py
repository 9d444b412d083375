"""How fast pretraining is, and what it learns, written to benchmarks/training.md.

    python -m benchmarks.training [--items FILE] [--title COLUMN] [--seconds 15] [--part one|many]

- One process: Hugging Face's `Trainer` with its masking collator, and `training.loop`: the same
  encoder, token rows, padded tokens of a batch, precision, optimiser and threads, in turns.
- Many: `training.pretrain` with one worker on one core and with two, for an epoch, beside the same
  loop without Ray.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
import yaml
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from rove.config import Config, EncoderSection
from rove.encoder import load_model
from rove.pretraining.masking import Vocabulary
from rove.pretraining.model import build
from rove.pretraining.stream import Corpus, Stream, write_manifest, write_part
from training import checkpoint, corpus
from training.loop import Batches, Loop
from training.sources import sources
from training.storage import Storage

CPU = torch.device("cpu")
_TURNS = 3
_WARM_UP = 2
_SKIP = 5  # first steps of a run, which allocate


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Steps of one side."""

    tokens: list[float]
    """Without padding, of each step."""
    places: list[float]
    """With padding."""
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Tokens a second, without padding."""
        return sum(self.tokens) / sum(self.seconds)

    @property
    def padding(self) -> float:
        """Share of the places."""
        return 1 - sum(self.tokens) / sum(self.places)


def config_of(options: argparse.Namespace, path: Path, **settings: Any) -> Config:
    """Return the configuration of one run on the items."""
    columns = {"title": options.title} if options.title != "title" else {}
    return Config.parse(
        {
            "name": "benchmark",
            "data": {"catalogue": {"path": str(options.items), "columns": columns}},
            "pretrain": {
                "path": str(path),
                "batch_tokens": options.batch_tokens,
                "max_tokens": options.max_tokens,
                "accumulate": options.accumulate,
                "dtype": options.dtype,
                **settings,
            },
        }
    )


def token_rows(config: Config, tokenizer: Any) -> list[list[int]]:
    """Return all rows as the runs read them."""
    backend, max_tokens = tokenizer.backend_tokenizer, config.pretrain.max_tokens
    counts = dict.fromkeys(("num_texts", "num_cut", "num_empty"), 0)
    return [
        row
        for source in sources(config)
        for rows in corpus.token_rows(source, backend, max_tokens, 0.0, False, counts)
        for row in rows
    ]


class Rove:
    """`training.loop`, going on turn after turn."""

    def __init__(self, name: str, config: Config, rows: list[list[int]], folder: Path) -> None:
        self.name = name
        files = pyarrow.fs.LocalFileSystem()
        part = write_part(files, str(folder), "rows.parquet", iter([rows]))
        write_manifest(files, str(folder), "benchmark", [part], [])
        section = config.pretrain
        model, tokenizer = build(config.encoder, section, None)
        self.loop = Loop(
            section,
            model,
            Batches(section, Vocabulary.of(tokenizer), CPU),
            Stream(Corpus.open(files, str(folder), "train"), section.batch_tokens, section.seed),
            num_steps=10_000,
            dtype=torch.bfloat16 if section.dtype == "bfloat16" else torch.float32,
            device=CPU,
        )

    def run(self, seconds: float) -> Speed:
        """Train for a while, after steps that do not count."""
        for _ in range(_WARM_UP):
            self.loop.advance()
        end, steps = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            steps.append(self.loop.advance())
        return Speed(
            tokens=[step.num_tokens for step in steps],
            places=[step.num_tokens / (1 - step.padding) for step in steps],
            seconds=[step.seconds for step in steps],
        )


class HuggingFace:
    """`transformers.Trainer` with `DataCollatorForLanguageModeling`."""

    name = "Hugging Face `Trainer`"

    def __init__(self, config: Config, rows: list[list[int]]) -> None:
        section = config.pretrain
        encoder, self._tokenizer = load_model(config.encoder)
        self._section = section
        self._rows = [{"input_ids": row} for row in rows]
        assert isinstance(encoder.config, BertConfig)
        self._model = BertForMaskedLM(encoder.config)
        self._model.bert.load_state_dict(encoder.state_dict())

    def run(self, seconds: float) -> Speed:
        """Train for a while, after steps that do not count."""
        section = self._section
        counts: list[tuple[float, float]] = []
        collate = DataCollatorForLanguageModeling(
            self._tokenizer, mlm_probability=section.mask_share
        )

        def counting(features: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = dict(collate(features))
            counts.append((float(batch["attention_mask"].sum()), batch["input_ids"].numel()))
            return batch

        watch = _Watch(seconds)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                model=self._model,
                args=TrainingArguments(
                    output_dir=folder,
                    per_device_train_batch_size=section.batch_tokens // section.max_tokens,
                    max_steps=10_000,
                    learning_rate=section.learning_rate,
                    weight_decay=section.weight_decay,
                    max_grad_norm=section.clip_norm,
                    lr_scheduler_type="cosine",
                    optim="adamw_torch_fused",
                    bf16=section.dtype == "bfloat16",
                    use_cpu=True,
                    dataloader_pin_memory=False,
                    disable_tqdm=True,
                    report_to=[],
                    save_strategy="no",
                    logging_strategy="no",
                ),
                train_dataset=self._rows,
                data_collator=counting,
                callbacks=[watch],
            ).train()
        kept = range(_WARM_UP, len(watch.ends))
        return Speed(
            tokens=[counts[i][0] for i in kept],
            places=[counts[i][1] for i in kept],
            seconds=[watch.ends[i] - watch.ends[i - 1] for i in kept],
        )


class _Watch(TrainerCallback):
    """Notes when each step ended, and stops the training when it is time."""

    def __init__(self, seconds: float) -> None:
        self.ends: list[float] = []
        self._seconds = seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        first = self.ends[min(_WARM_UP, len(self.ends)) - 1]
        control.should_training_stop = self.ends[-1] - first > self._seconds


def one_process(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table of one process."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(options, Path(folder) / "run")
        _, tokenizer = load_model(EncoderSection())
        rows = token_rows(config, tokenizer)
        undropped = config_of(options, Path(folder) / "run", attention_dropout=0.0)
        sides: list[Any] = [
            HuggingFace(config, rows),
            Rove("Rove, the same", config, rows, Path(folder)),
            Rove("Rove, `attention_dropout: 0`", undropped, rows, Path(folder)),
        ]
        speeds: dict[str, list[Speed]] = {side.name: [] for side in sides}
        for _ in range(_TURNS):
            for side in sides:
                speeds[side.name].append(side.run(options.seconds / _TURNS))
    yield f"{len(rows):,} rows, {sum(map(len, rows)):,} tokens; {options.threads} threads, "
    yield f"{options.batch_tokens:,} padded tokens a batch, {options.dtype}."
    yield ""
    yield "| one process | tokens/s, without padding | each turn | padding |"
    yield "| --- | ---: | --- | ---: |"
    rates = {}
    for name, turns in speeds.items():
        rates[name] = statistics.median(turn.rate for turn in turns)
        each = ", ".join(f"{turn.rate:,.0f}" for turn in turns)
        padding = statistics.mean(turn.padding for turn in turns)
        yield f"| {name} | {rates[name]:,.0f} | {each} | {padding:.1%} |"
    slow, fast, fastest = rates.values()
    yield ""
    yield (
        f"Rove over Hugging Face: {fast / slow:.2f} times, without attention dropout "
        f"{fastest / slow:.2f}."
    )


def many(options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the tables of runs with Ray."""
    with tempfile.TemporaryDirectory() as folder:
        curves, held_out = {}, {}
        for workers in (1, 2):
            path = Path(folder) / str(workers)
            settings = {"max_steps": options.steps} if options.steps else {}
            config = config_of(options, path, num_workers=workers, **settings)
            file = Path(folder) / f"{workers}.yaml"
            file.write_text(yaml.safe_dump(config.model_dump(mode="json")), "utf-8")
            command = [sys.executable, "-m", "training.pretrain", str(file)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            storage = Storage.open(path)
            last = Path(storage.folder) / storage.checkpoints("train")[-1]
            state = checkpoint.read(last)[2]
            curves[workers], held_out[workers] = state["curve"], state["held_out"]
        torch.set_num_threads(1)
        _, tokenizer = load_model(EncoderSection())
        (Path(folder) / "alone").mkdir()
        config = config_of(options, Path(folder) / "run")
        alone = Rove("alone", config, token_rows(config, tokenizer), Path(folder) / "alone")
        alone_rate = alone.run(options.seconds).rate
    yield "| `training.pretrain` | tokens/s, without padding | held-out loss before | after |"
    yield "| --- | ---: | ---: | ---: |"
    rates = {}
    for workers, curve in curves.items():
        steps = curve[_SKIP:]
        rates[workers] = sum(s["num_tokens"] for s in steps) / sum(s["seconds"] for s in steps)
        losses = held_out[workers]
        yield (
            f"| workers: {workers}, one thread each | {rates[workers]:,.0f} | "
            f"{losses[0]['loss']:.3f} | {losses[-1]['loss']:.3f} |"
        )
    yield f"| the loop without Ray, one thread | {alone_rate:,.0f} | | |"
    yield ""
    yield f"Two workers over one: {rates[2] / rates[1]:.2f} times. "
    yield f"Ray's own share of a step, one worker: {1 - rates[1] / alone_rate:.1%}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page's parts."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--items", type=Path, default=Path("examples/shop/items.parquet"))
    parser.add_argument("--title", default="title", help="the column of the titles")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each side")
    parser.add_argument("--steps", type=int, default=None, help="of a run with Ray; an epoch")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--accumulate", type=int, default=1, help="batches of a step, with Ray")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--part", choices=("one", "many"), default=None)
    parser.add_argument("--output", type=Path, default=None, help="a file to write to as well")
    options = parser.parse_args(arguments)
    if options.items == parser.get_default("items") and options.title == "title":
        options.title = "description"  # the example's only text
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    parts = {"one": one_process, "many": many}
    lines = [
        line
        for name, part in parts.items()
        if options.part in (None, name)
        for line in (*part(options), "")
    ]
    print("\n".join(lines))
    if options.output is not None:
        options.output.write_text("\n".join(lines), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
