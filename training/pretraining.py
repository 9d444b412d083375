"""One pretraining run: corpus, tokenizer, workers, news, and the encoder that comes out.

    training.sources    the texts
    training.corpus     texts -> token rows (Ray Data)
    training.worker     token rows -> checkpoints (Ray Train)
    training.storage    where both are
    training.following  news -> terminal, trackers
    training.report     the report at the end

A run's folder belongs to one set of settings: `run.json` keeps them, and a run that was stopped
goes on only under the same ones. What may differ is what does not change the numbers.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rove.config import Config, EncoderSection, PretrainSection
from rove.encoder import load_model
from rove.errors import ConfigError, DataError, RoveError, shown
from rove.pretraining.masking import Vocabulary
from rove.pretraining.model import build, check_length
from rove.pretraining.stream import read_manifest
from rove.pretraining.tokenizer import train_tokenizer
from training import checkpoint, corpus, tracking
from training.following import Follower
from training.report import write_report
from training.sources import Source, sources
from training.storage import Storage
from training.worker import News, Task, train

RUN = "train"  # Ray Train's folder
_TOKENS, _TOKENIZER, _RUN_FILE = "tokens", "tokenizer", "run.json"
_TEXTS = "the texts"
_FREE = {  # settings that may change when a run goes on
    "path",
    "storage",
    "tracking",
    "max_failures",
    "checkpoint_steps",
    "keep_checkpoints",
}


def run(config: Config) -> Path:
    """Train to the end; return the encoder's folder."""
    section = config.pretrain
    tracking.check(section.tracking)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    found = sources(config)
    encoder = _absolute(config.encoder)
    own = Storage.open(section.path)
    storage = Storage.open(section.storage) if section.storage else own
    _check_settings(storage, config)
    start_step = _check_checkpoint(storage)
    backend = _tokenizer_of(encoder, section)
    config.write(section.path)
    _start_ray()
    _check_size(section)
    folder = section.path / _TOKENIZER if backend is None else None
    if backend is None:
        backend = _trained_tokenizer(found, section).backend_tokenizer.to_str()
    key = corpus.key_of(found, backend, section.max_tokens, section.holdout_share)
    _check_settings(storage, config, key)
    _tokenise(found, backend, storage, section, key)
    storage.write_json(_RUN_FILE, _settings(config, key))
    state = _train(config, encoder, storage, folder, start_step)
    result = _write_encoder(config, encoder, storage, folder)
    write_report(section.path, config, *state)
    print(f"report: {section.path / 'report.md'}")
    print(f"the encoder is in {result}; use it with encoder.model={result}")
    return result


def _train(
    config: Config,
    encoder: EncoderSection,
    storage: Storage,
    tokenizer: Path | None,
    start_step: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let the workers train; return the last checkpoint's state and what the run was like."""
    section = config.pretrain
    news = ray.remote(num_cpus=0)(News).remote()
    task = Task(
        encoder=encoder,
        section=section,
        tokenizer=tokenizer.resolve() if tokenizer else None,
        filesystem=storage.filesystem,
        corpus=f"{storage.folder}/{_TOKENS}",
        news=news,
    )
    resources = {"CPU": float(section.cpus_per_worker)}
    if section.gpus_per_worker:
        resources["GPU"] = float(section.gpus_per_worker)
    trainer = TorchTrainer(
        train,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if section.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=section.num_workers,
            use_gpu=bool(section.gpus_per_worker),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=storage.address,
            failure_config=FailureConfig(max_failures=section.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=section.keep_checkpoints),
        ),
    )
    with Follower(news, config, start_step) as follower:
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _plain(error) from None
    return _last_state(storage), follower.facts


def _plain(error: BaseException) -> RoveError:
    """Return the error that a worker raised, as one line."""
    failures = getattr(error, "worker_failures", None) or {}
    cause: Any = next(iter(failures.values()), error)
    for one in (cause, getattr(cause, "cause", None), cause.__cause__):
        if isinstance(one, RoveError):
            return one
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    detail = lines[-1].strip() if lines else repr(cause)
    return RoveError(f"the workers failed and were not replaced any more: {detail}")


def _write_encoder(
    config: Config, encoder: EncoderSection, storage: Storage, tokenizer: Path | None
) -> Path:
    """Write what `encoder.model` takes, from the last checkpoint."""
    trained = None
    if tokenizer is not None:
        trained = PreTrainedTokenizerFast.from_pretrained(str(tokenizer))
    model, own = build(encoder, config.pretrain, trained)
    with tempfile.TemporaryDirectory() as folder:
        storage.fetch(storage.checkpoints(RUN)[-1], Path(folder))
        model.load_state_dict(load_file(Path(folder) / checkpoint.MODEL), strict=False)
    result = config.pretrain.path / "encoder"
    model.save(result, own)
    return result


def _last_state(storage: Storage) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        storage.fetch(storage.checkpoints(RUN)[-1], Path(folder))
        return checkpoint.read(Path(folder))[2]


def _start_ray() -> None:
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _check_size(section: PretrainSection) -> None:
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = section.num_workers * section.cpus_per_worker
    if wanted > have.get("CPU", 0):
        raise ConfigError(
            f"{section.num_workers} workers with {section.cpus_per_worker} CPUs each need {wanted} "
            f"CPUs, the cluster has {have.get('CPU', 0):g}; lower pretrain.num_workers or "
            ".cpus_per_worker, or start more nodes"
        )
    if section.num_workers * section.gpus_per_worker > have.get("GPU", 0):
        raise ConfigError(
            f"pretrain.gpus_per_worker is {section.gpus_per_worker}, but the cluster has "
            f"{have.get('GPU', 0):g} GPUs; lower it or pretrain.num_workers"
        )


def _tokenizer_of(encoder: EncoderSection, section: PretrainSection) -> str | None:
    """Return the encoder's tokenizer.json after checks; none where it is to be trained."""
    if section.start == "scratch":
        return None
    model, tokenizer = load_model(encoder)
    check_length(model, tokenizer, section.max_tokens)
    vocabulary = Vocabulary.of(tokenizer)
    if section.whole_words and vocabulary.continues_V is None:
        raise ConfigError(
            "pretrain.whole_words needs a WordPiece tokenizer, which marks the pieces of a word; "
            "set it to false"
        )
    backend: str = tokenizer.backend_tokenizer.to_str()
    return backend


def _trained_tokenizer(found: list[Source], section: PretrainSection) -> Any:
    """Return the run's own tokenizer, trained on the corpus unless it is there already."""
    folder = section.path / _TOKENIZER
    if (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(str(folder))
    print("training a tokenizer ...", flush=True)
    tokenizer = train_tokenizer(
        lambda: corpus.all_texts(found), section.scratch.vocabulary, section.max_tokens
    )
    tokenizer.save_pretrained(str(folder))
    print(f"training a tokenizer: {len(tokenizer):,} tokens", flush=True)
    return tokenizer


def _tokenise(
    found: list[Source], backend: str, storage: Storage, section: PretrainSection, key: str
) -> None:
    folder = f"{storage.folder}/{_TOKENS}"
    manifest = read_manifest(storage.filesystem, folder)
    if manifest is not None and manifest["key"] == key:
        return
    print(f"tokenising {len(found):,} sources ...", flush=True)
    try:
        summary = corpus.tokenise(
            found,
            backend,
            storage.filesystem,
            folder,
            max_tokens=section.max_tokens,
            holdout_share=section.holdout_share,
        )
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RoveError):
            raise error.cause from None
        raise
    print("\n".join(summary.lines()), flush=True)


def _settings(config: Config, key: str | None = None) -> dict[str, Any]:
    """Return all that decides the numbers of a run."""
    pretrain = config.pretrain.model_dump(mode="json", exclude=_FREE)
    return {
        **{f"pretrain.{name}": value for name, value in pretrain.items()},
        "encoder.model": config.encoder.model,
        **({_TEXTS: key[:16]} if key else {}),
    }


def _check_settings(storage: Storage, config: Config, key: str | None = None) -> None:
    """Refuse to go on under other settings than the run began with, and other texts if known."""
    before, now = storage.read_json(_RUN_FILE), _settings(config, key)
    if before is None:
        return
    differ = [one for one in now if before.get(one) != now[one]]
    if not differ:
        return
    name = differ[0]
    raise ConfigError(
        f"{storage.address}: a run was begun here with other settings: {name} was "
        f"{shown(before.get(name))}, now {shown(now[name])}; give pretrain.path another folder"
    )


def _check_checkpoint(storage: Storage) -> int:
    """Read the checkpoint that the run would go on from; return its step, or 0."""
    known = storage.checkpoints(RUN)
    if not known:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            storage.fetch(known[-1], Path(folder))
            state = checkpoint.read(Path(folder))[2]
        except DataError as error:
            detail = error.detail.replace(folder, f"{storage.address}/{known[-1]}")
            raise DataError(detail) from None
    step = int(state["step"])
    print(f"going on from step {step:,} ({storage.address}/{known[-1]})", flush=True)
    return step


def _absolute(section: EncoderSection) -> EncoderSection:
    """Name a model's folder so that workers find it, whatever their working directory."""
    if not Path(section.model).is_dir():
        return section
    return section.model_copy(update={"model": str(Path(section.model).resolve())})
