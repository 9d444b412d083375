"""One pretraining run: corpus, tokenizer, workers, news, and the encoder that comes out.

    training.sources    the texts
    training.corpus     texts -> token rows (Ray Data)
    training.worker     token rows -> checkpoints (Ray Train)
    training.storage    where both are
    training.following  news -> terminal, trackers
    training.pretrain_report  the report at the end

A run's folder belongs to one set of settings: `run.json` keeps them, and a run that was stopped
goes on only under the same ones. What may differ is what does not change the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rove.config import Config, EncoderSection, PretrainSection
from rove.encoder import load_model
from rove.errors import ConfigError, RoveError, shown
from rove.pretraining.masking import Vocabulary
from rove.pretraining.model import build, check_length
from rove.pretraining.stream import read_manifest
from rove.pretraining.tokenizer import train_tokenizer
from training import checkpoint, cluster, corpus, tracking
from training.cluster import RUN
from training.following import Follower
from training.news import News
from training.pretrain_report import write_report
from training.sources import Source, sources
from training.storage import Storage
from training.worker import Task, train

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
    cluster.warn_of_copy([section.path, section.storage])
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    found = sources(config)
    encoder = cluster.absolute(config.encoder)
    own = Storage.open(section.path)
    storage = Storage.open(section.storage) if section.storage else own
    _check_settings(storage, config)
    start_step = _check_checkpoint(storage)
    backend = _tokenizer_of(encoder, section)
    config.write(section.path)
    folder = section.path / _TOKENIZER if backend is None else None
    with cluster.connected():
        cluster.check_size(section, "pretrain")
        if backend is None:
            backend = _trained_tokenizer(found, section).backend_tokenizer.to_str()
        key = corpus.key_of(found, backend, section.max_tokens, section.holdout_share)
        _check_settings(storage, config, key)
        _tokenise(found, backend, storage, section, key)
        storage.write_json(_RUN_FILE, _settings(config, key))
        state = _train(config, encoder, storage, folder, start_step)
    result = _write_encoder(config, encoder, storage, folder).resolve()
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
    follower = Follower(
        news,
        title="pretraining",
        name=config.name,
        folder=section.path,
        tracking=section.tracking,
        settings=section.model_dump(mode="json", exclude={"tracking"}),
        start_step=start_step,
    )
    with follower:
        cluster.train(train, {"task": task}, section, storage, section.keep_checkpoints)
    return _last_state(storage), follower.facts


def _write_encoder(
    config: Config, encoder: EncoderSection, storage: Storage, tokenizer: Path | None
) -> Path:
    """Write what `encoder.model` takes, from the last checkpoint."""
    trained = None
    if tokenizer is not None:
        trained = PreTrainedTokenizerFast.from_pretrained(str(tokenizer))
    model, own = build(encoder, config.pretrain, trained)
    with storage.latest(RUN) as folder:
        assert folder is not None
        model.load_state_dict(load_file(folder / checkpoint.MODEL), strict=False)
    result = config.pretrain.path / "encoder"
    model.save(result, own)
    return result


def _last_state(storage: Storage) -> dict[str, Any]:
    with storage.latest(RUN) as folder:
        assert folder is not None
        return checkpoint.read(folder)[2]


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
    with storage.latest(RUN) as folder:
        if folder is None:
            return 0
        place = f"{storage.address}/{storage.checkpoints(RUN)[-1]}"
        checkpoint.check(folder, place, "pretrain")
        step = int(checkpoint.read(folder)[2]["step"])
    print(f"going on from step {step:,} ({place})", flush=True)
    return step
