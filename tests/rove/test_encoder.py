"""The encoder on a tiny random BERT, and the packaged MiniLM on real sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from rove.config import EncoderSection
from rove.encoder import Encoder
from rove.errors import ConfigError

WORDS = ["red", "blue", "lamp", "vase", "##s", "cup", "tea", "a", "of", "for", "two", "?"]
TEXTS = ["red lamp", "a cup of tea for two", "", "vases", "tea", "blue vase for a red cup of tea"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def make_config() -> BertConfig:
    return BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers and 16 dimensions."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertModel(make_config()).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def load(folder: Path, **settings: Any) -> Encoder:
    # `auto` may round, as the load is.
    chosen: dict[str, Any] = {"max_tokens": 32, "dtype": "float32"} | settings
    return Encoder.load(EncoderSection(model=str(folder), **chosen))


def test_vectors_are_unit_float32_in_the_order_of_the_texts(folder: Path) -> None:
    encoder = load(folder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors.shape, encoder.dim) == ((6, 16), 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], vector, atol=1e-5)


def test_the_vector_is_the_normalised_mean_of_the_last_states(folder: Path) -> None:
    """By hand: [CLS] red lamp [SEP] is 2 5 7 3; mean over its four states, then unit length."""
    model = BertModel.from_pretrained(folder)  # in evaluation mode
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([[2, 5, 7, 3]])).last_hidden_state[0].numpy()
    mean = states.mean(axis=0)
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(load(folder).encode(["Red LAMP"])[0], expected, atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [64, 100, 4096])
def test_vectors_do_not_depend_on_the_batch(folder: Path, batch_tokens: int) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(0, 40))) for _ in range(200)]
    alone = load(folder, batch_tokens=4096)
    expected = np.concatenate([alone.encode([text]) for text in texts])
    encoder = load(folder, batch_tokens=batch_tokens)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    order = rng.permutation(len(texts))
    np.testing.assert_allclose(
        encoder.encode([texts[i] for i in order]), expected[order], atol=1e-5
    )


def test_no_texts_give_no_vectors(folder: Path) -> None:
    assert load(folder).encode([]).shape == (0, 16)


def test_an_empty_text_and_white_space_are_texts_like_any_other(folder: Path) -> None:
    vectors = load(folder).encode(["", " \n\t"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.isfinite(vectors).all()


def test_lone_surrogates_are_read_as_question_marks(folder: Path) -> None:
    vectors = load(folder).encode(["lamp \ud800", "lamp ?"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_long_text_is_cut_to_max_tokens(folder: Path) -> None:
    """max_tokens counts [CLS] and [SEP], so 8 leaves six words."""
    encoder = load(folder, max_tokens=8)
    vectors = encoder.encode(["tea " * 6, "tea " * 6 + "lamp", "tea " * 250_000])  # the last: 1 MB
    np.testing.assert_allclose(vectors, np.tile(vectors[0], (3, 1)), atol=1e-6)


def test_the_name_tells_models_apart_and_survives_saving(folder: Path, tmp_path: Path) -> None:
    encoder = load(folder)
    encoder.encode(TEXTS)
    encoder.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert re.fullmatch("[0-9a-f]{16}", encoder.name)
    assert again.name == encoder.name
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    torch.manual_seed(1)
    BertModel(make_config()).save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved").name != encoder.name


def test_the_name_does_not_depend_on_how_the_encoder_is_run(folder: Path) -> None:
    settings: list[dict[str, Any]] = [{}, {"max_tokens": 8}, {"dtype": "bfloat16"}]
    assert len({load(folder, **setting).name for setting in settings}) == 1


def test_what_is_saved_holds_no_pickle(folder: Path, tmp_path: Path) -> None:
    load(folder).save(tmp_path / "saved")
    suffixes = {path.suffix for path in (tmp_path / "saved").iterdir()}
    assert suffixes == {".json", ".safetensors"}


def test_bfloat16_is_close_to_float32_and_saves_full_precision(
    folder: Path, tmp_path: Path
) -> None:
    full, half = load(folder, dtype="float32"), load(folder, dtype="bfloat16")
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    vectors = half.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, full.encode(TEXTS), atol=0.03)
    half.save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path, dtype="float32").encode(TEXTS), full.encode(TEXTS))


def test_auto_keeps_one_of_the_two(folder: Path) -> None:
    assert load(folder, dtype="auto").dtype in (torch.float32, torch.bfloat16)


def test_a_checkpoint_with_another_head_and_no_pooler_is_read(tmp_path: Path) -> None:
    BertForMaskedLM(make_config()).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path).name == load(tmp_path).name  # nothing random is left in the model


def test_a_checkpoint_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    load(folder).save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=re.escape("its config.json is of another model")):
        load(tmp_path)


def test_a_checkpoint_as_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    load(folder).save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(BertModel(make_config()).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=re.escape("cannot be loaded: ")):
        load(tmp_path)


def test_a_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    load(folder).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ConfigError, match=re.escape("cannot be loaded: ")):
        load(tmp_path)


def test_a_missing_or_another_models_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    load(folder).save(tmp_path)
    config = make_config()
    config.vocab_size = 100
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=re.escape("reads 100 different tokens, its tokenizer has")
    ):
        load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=re.escape("cannot be loaded: Couldn't instantiate")):
        load(tmp_path)


def test_a_folder_without_a_model_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("give `minilm`, a folder with config.json")):
        load(tmp_path)
    with pytest.raises(ConfigError, match=re.escape("nor an existing folder (looked from")):
        load(tmp_path / "none")


def test_more_tokens_than_the_model_has_positions_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("encoder.max_tokens is 65, but ")):
        load(folder, max_tokens=65)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    # Not `auto`: CPUs with bfloat16 units round, and company then matters in the third digit.
    return Encoder.load(EncoderSection(dtype="float32"))


def test_minilm_puts_what_means_the_same_together(minilm: Encoder) -> None:
    texts = ["a mug for hot coffee", "CERAMIC TEA CUP", "annual tax return for companies"]
    vectors = minilm.encode(texts)
    similarity = vectors @ vectors.T
    assert minilm.dim == 384
    assert similarity[0, 1] > 0.5 > 0.15 > max(similarity[0, 2], similarity[1, 2])


def test_minilm_gives_the_same_vector_in_any_company(minilm: Encoder) -> None:
    texts = ["WHITE HANGING HEART T-LIGHT HOLDER", "cup", "set of 3 cake tins, pantry design " * 9]
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    np.testing.assert_allclose(minilm.encode(texts), alone, atol=1e-5)
