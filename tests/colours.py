"""A small made-up shop for adaptation: a tiny random BERT, and users who like one colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rove.adaptation import adapters
from rove.adaptation.episodes import History
from rove.adaptation.popularity import Popularity
from rove.behaviour import Behaviour
from rove.config import Config
from rove.encoder import digest_of, load_model
from rove.ledger.load import rewarded
from rove.readers import read_catalogue, read_interactions
from rove.rewards import RewardMap

COLOURS, THINGS = ["red", "blue"], ["lamp", "vase", "cup", "tea", "box", "pen", "hat", "bag"]
DAY_S = 86_400.0


def write_encoder(folder: Path, words: Sequence[str] = (*COLOURS, *THINGS, "big", "small")) -> None:
    """Write a random BERT of 2 layers and 16 dimensions that knows some words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(folder: Path, num_users: int = 40, with_text: bool = True) -> None:
    """Users like one colour: 32 items, six interactions a user, a day between them."""
    titles = [f"{size} {c} {t}" for size in ("big", "small") for c in COLOURS for t in THINGS]
    ids = [f"i{row}" for row in range(len(titles))]
    texts = titles if with_text else [""] * len(titles)
    pq.write_table(pa.table({"item_id": ids, "title": texts}), folder / "items.parquet")
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"user_id": [], "item_id": [], "timestamp": []}
    for user in range(num_users):
        own = [row for row, title in enumerate(titles) if COLOURS[user % 2] in title]
        for place, row in enumerate(rng.permutation(own)[:6].tolist()):
            rows["user_id"].append(f"u{user}")
            rows["item_id"].append(ids[row])
            rows["timestamp"].append(1e9 + DAY_S * (10 * place + rng.random()))
    pq.write_table(pa.table(rows), folder / "history.parquet")


def tree(world: Path, out: Path, **adapt: Any) -> dict[str, Any]:
    settings = {
        "path": str(out / "adapt"),
        "layers": 1,
        "rank": 2,
        "bottleneck": 4,
        "epochs": 2,
        "batch_users": 8,
        "batch_items": 16,
        "validation_share": 0.2,
        "learning_rate": 0.01,
    }
    return {
        "name": "tiny",
        "data": {
            "catalogue": {"path": str(world / "items.parquet")},
            "interactions": {"path": str(world / "history.parquet"), "type": "purchase"},
        },
        "encoder": {"model": str(world / "bert"), "max_tokens": 16, "dtype": "float32"},
        "store": {"url": f"sqlite:///{out / 'ledger'}"},
        "releases": {"path": str(out / "releases")},
        "training": {"text_factors": 4, "learned_factors": 4},
        "adapt": settings | adapt,
    }


def config_of(world: Path, out: Path, **adapt: Any) -> Config:
    return Config.parse(tree(world, out, **adapt))


def write_adapter(config: Config, folder: Path) -> Path:
    """Write random bottlenecks for the encoder of the configuration (`adapt.method: houlsby`)."""
    model, tokenizer = load_model(config.encoder)
    base = digest_of(model, tokenizer)
    adapter = adapters.attach(model, config.adapt, total_steps=1)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    adapters.write(folder, adapter, 0.1 * torch.ones(16, 16), method="houlsby", base=base)
    return folder


def prepared_of(config: Config) -> tuple[list[str], History, History, Popularity]:
    """Return texts, the episodes of training and of validation, and popularity."""
    assert config.data is not None and config.data.interactions is not None
    items, _ = read_catalogue(config.data.catalogue)
    table, _ = read_interactions(config.data.interactions)
    rows = {item.item_id: row for row, item in enumerate(items)}
    every = Behaviour.from_batches([rewarded(table, RewardMap.from_config(config.rewards))], rows)
    past, later = every.split(config.adapt.validation_share)
    ones = np.ones(len(every))
    validation = History.of(every, ones, since_s=float(later.timestamps[0]))
    texts = [item.text for item in items]
    return texts, History.of(past, ones[: len(past)]), validation, Popularity.of(past)
