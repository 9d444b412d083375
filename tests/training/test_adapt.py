"""The job on a tiny BERT and a small made-up shop: a release whose encoder is base and adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from rove.release import latest
from training.adapt_job import run

# Ray's own settings, when it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

ROOT = Path(__file__).parent.parent.parent
COLOURS, THINGS = ["red", "blue"], ["lamp", "vase", "cup", "tea", "box", "pen", "hat", "bag"]
DAY_S = 86_400.0


def write_encoder(folder: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *COLOURS, *THINGS, "big", "small"])}
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder and data."""
    folder = tmp_path_factory.mktemp("world")
    write_encoder(folder / "bert")
    write_data(folder)
    return folder


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster with two CPUs."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize(("method", "workers"), [("lora", 2), ("adalora", 1), ("houlsby", 1)])
def test_the_job_ends_with_a_release_whose_encoder_is_base_and_adapter(
    world: Path, tmp_path: Path, cluster: None, method: str, workers: int
) -> None:
    config = config_of(world, tmp_path, method=method, num_workers=workers)
    folder = run(config, from_ledger=False, with_report=False)
    release = latest(config.releases.path)
    assert release.folder == folder
    encoder = Encoder.load(
        EncoderSection(model=str(release.encoder_folder), max_tokens=16, dtype="float32")
    )
    assert encoder.name == release.encoder != Encoder.load(config.encoder).name
    np.testing.assert_allclose(
        encoder.encode([release.item(0).text])[0], release.embeddings_JE[0], atol=1e-5
    )
    curve = json.loads((tmp_path / "adapt" / "curve.json").read_text())
    assert [epoch["epoch"] for epoch in curve] == list(range(1, len(curve) + 1))
