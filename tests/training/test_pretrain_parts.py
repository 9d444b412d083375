"""Masking, batches, schedule, losses and tokenizer of pretraining, by hand-worked numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
import torch
from transformers import BertModel

from rove.config import EncoderSection, PretrainSection, ScratchSection
from rove.encoder import Encoder
from rove.errors import ConfigError, DataError
from rove.pretraining.batching import batches, num_batches
from rove.pretraining.masking import Vocabulary, mask
from rove.pretraining.model import (
    MaskedLanguageModel,
    bert_config,
    contrastive_loss,
    from_encoder,
    from_scratch,
)
from rove.pretraining.schedule import learning_rate
from rove.pretraining.stream import Corpus, Position, Stream, write_manifest, write_part
from rove.pretraining.tokenizer import train_tokenizer

NUM_TOKENS = 1000
LETTERS = "abcdefghij"
TEXTS = [f"{a}{b} {b}{c}{a} {c}" for a in LETTERS for b in LETTERS for c in LETTERS]


def vocabulary(continues: bool = True) -> Vocabulary:
    """Ids 0 to 4 are special (0 pads, 4 masks); of the others every second goes on with a word."""
    ids = np.arange(NUM_TOKENS)
    return Vocabulary(
        size=NUM_TOKENS,
        pad=0,
        mask=4,
        special_V=ids < 5,
        continues_V=(ids >= 5) & (ids % 2 == 0) if continues else None,
    )


def ordinary(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(5, NUM_TOKENS, size=shape)


def test_fifteen_in_a_hundred_are_chosen_and_of_those_80_10_10() -> None:
    """400,000 tokens: the shares' standard errors are .0006 and, of 60,000 chosen, .0016; one in
    995 replacements draws the token that stood there."""
    ids = ordinary((4000, 100))
    hidden = mask(ids, vocabulary(), 0.15, np.random.default_rng(1))
    now = hidden.ids_BT.reshape(-1)[hidden.places_M]
    assert len(now) / ids.size == pytest.approx(0.15, abs=0.002)
    assert np.mean(now == 4) == pytest.approx(0.8, abs=0.006)
    assert np.mean(now == hidden.targets_M) == pytest.approx(0.1, abs=0.006)
    assert np.mean((now != 4) & (now != hidden.targets_M)) == pytest.approx(0.1, abs=0.006)


def test_what_is_not_chosen_stays_and_the_targets_are_what_stood_there() -> None:
    ids = ordinary((50, 40))
    before = ids.copy()
    hidden = mask(ids, vocabulary(), 0.3, np.random.default_rng(2))
    np.testing.assert_array_equal(ids, before)
    np.testing.assert_array_equal(hidden.targets_M, before.reshape(-1)[hidden.places_M])
    restored = hidden.ids_BT.copy()
    restored.reshape(-1)[hidden.places_M] = hidden.targets_M
    np.testing.assert_array_equal(restored, before)


def test_special_tokens_are_never_hidden_and_never_drawn() -> None:
    ids = np.tile([2, 7, 3, 0, 0], (3000, 1))
    hidden = mask(ids, vocabulary(), 0.9, np.random.default_rng(3))
    assert set(hidden.places_M % 5) == {1}
    now = hidden.ids_BT[:, 1]
    assert np.all((now == 4) | (now >= 5))


def test_masks_are_new_for_each_generator_and_the_same_for_the_same() -> None:
    ids = ordinary((20, 20))
    one, two, other = (mask(ids, vocabulary(), 0.15, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.ids_BT, two.ids_BT)
    assert not np.array_equal(one.ids_BT, other.ids_BT)


def test_a_whole_word_is_chosen_with_all_of_its_pieces() -> None:
    """[7 8 10] [9 6]: the pieces 8, 10 and 6 are even, so they go on with a word."""
    ids = np.tile([2, 7, 8, 10, 9, 6, 3], (20_000, 1))
    hidden = mask(ids, vocabulary(), 0.15, np.random.default_rng(4), whole_words=True)
    chosen = np.zeros(ids.shape, dtype=bool)
    chosen.reshape(-1)[hidden.places_M] = True
    assert not chosen[:, [0, 6]].any()
    assert np.array_equal(chosen[:, 1], chosen[:, 2]) and np.array_equal(chosen[:, 1], chosen[:, 3])
    assert np.array_equal(chosen[:, 4], chosen[:, 5])
    assert chosen[:, 1].mean() == pytest.approx(0.15, abs=0.01)
    assert np.mean(chosen[:, 1] & chosen[:, 4]) == pytest.approx(0.15**2, abs=0.005)


def test_whole_words_need_a_tokenizer_that_tells_them() -> None:
    with pytest.raises(ConfigError, match=re.escape("needs a WordPiece tokenizer")):
        mask(ordinary((2, 2)), vocabulary(False), 0.5, np.random.default_rng(0), whole_words=True)


def test_batches_hold_every_text_once_within_the_budget_with_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 129, size=3000)
    found = batches(lengths, 4096, np.random.default_rng(1))
    assert sorted(np.concatenate(found).tolist()) == list(range(3000))
    padded = sum(len(rows) * lengths[rows].max() for rows in found)
    assert all(len(rows) * lengths[rows].max() <= 4096 for rows in found)
    assert 1 - lengths.sum() / padded < 0.05
    assert len(found) == num_batches(lengths, 4096)


def test_a_text_longer_than_a_batch_is_a_batch() -> None:
    found = batches(np.array([10, 200, 10]), 64, np.random.default_rng(0))
    assert sorted(map(sorted, found)) == [[0, 2], [1]]


def test_the_learning_rate_rises_to_its_highest_and_falls_as_a_cosine() -> None:
    """10 steps, 20 % of them warm-up: .5, 1 of the highest, then (1 + cos(pi k / 8)) / 2."""
    rates = [learning_rate(step, 10, 2.0, 0.2) for step in range(10)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[6] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(1 + math.cos(math.pi * 7 / 8))
    assert learning_rate(0, 1, 2.0, 0.0) == 2.0


def test_the_contrastive_loss_is_that_of_the_formula() -> None:
    """Scores [[1, 0], [.6, .8]] at temperature 1: log(1 + e^-1) and log(1 + e^-.2), averaged."""
    first = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    second = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    ids = torch.tensor([[1, 2], [1, 3]])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-0.2))) / 2
    assert float(contrastive_loss(first, second, ids, 1.0)) == pytest.approx(expected)


def test_the_same_text_twice_is_no_negative_of_itself() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 4), dim=1)
    same = torch.tensor([[1, 2], [1, 2]])
    assert float(contrastive_loss(vectors, vectors, same, 0.05)) == 0.0


def tiny(**settings: object) -> tuple[MaskedLanguageModel, object]:
    shape = ScratchSection(layers=2, hidden=32, vocabulary=80)
    section = PretrainSection(start="scratch", scratch=shape, **settings)  # type: ignore[arg-type]
    tokenizer = train_tokenizer(lambda: TEXTS, shape.vocabulary, section.max_tokens)
    torch.manual_seed(0)
    return from_scratch(section, tokenizer), tokenizer


def test_the_loss_is_the_cross_entropy_at_the_hidden_places_only() -> None:
    """The same as scores of every place, of which the hidden ones count."""
    model, _ = tiny()
    model.eval()
    ids = torch.tensor([[2, 7, 9, 3], [2, 11, 3, 0]])
    places, targets = torch.tensor([1, 5]), torch.tensor([8, 12])
    with torch.no_grad():
        loss, contrast = model(ids, ids > 0, places, targets)
        scores_BTV = model.logits(model.states(ids, ids > 0))
    everywhere = scores_BTV.log_softmax(-1).reshape(8, -1)
    assert float(loss) == pytest.approx(-float(everywhere[1, 8] + everywhere[5, 12]), rel=1e-5)
    assert float(contrast) == 0.0


def test_a_tied_head_moves_the_embeddings_and_a_new_one_has_its_own() -> None:
    tied, _ = tiny()
    new, _ = tiny(head="new")
    names = [name for name, _ in tied.named_parameters() if "output_VE" in name]
    assert names == [] and new.output_VE is not None
    table = new.encoder.get_input_embeddings().weight
    assert torch.equal(new.output_VE, table)  # type: ignore[arg-type]


def test_what_is_saved_is_an_encoder_and_its_head_is_found_again(tmp_path: Path) -> None:
    model, tokenizer = tiny()
    with torch.no_grad():
        model.bias_V.fill_(3.0)
    model.save(tmp_path, tokenizer)
    vectors = Encoder.load(EncoderSection(model=str(tmp_path))).encode(["ab bca c"])
    assert vectors.shape == (1, 32)
    again, _ = from_encoder(EncoderSection(model=str(tmp_path)), PretrainSection())
    assert torch.equal(again.bias_V, model.bias_V)


def test_the_shape_follows_from_width_and_depth() -> None:
    _, tokenizer = tiny()
    config = bert_config(ScratchSection(layers=3, hidden=64), 600, tokenizer)  # type: ignore[arg-type]
    assert (config.num_attention_heads, config.intermediate_size) == (2, 256)
    assert config.max_position_embeddings == 600
    assert isinstance(BertModel(config), BertModel)


def test_a_trained_tokenizer_is_the_same_each_time_and_marks_pieces() -> None:
    one, two = (train_tokenizer(lambda: TEXTS, 80, 32) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    known = Vocabulary.of(one)
    assert known.continues_V is not None and known.continues_V.any()
    assert one.convert_ids_to_tokens(known.mask) == "[MASK]"
    assert known.special_V.sum() == 5


def test_too_small_a_corpus_trains_no_tokenizer() -> None:
    with pytest.raises(DataError, match=re.escape("too few to train a tokenizer on")):
        train_tokenizer(lambda: ["a", "b"], 100, 32)


def make_corpus(folder: Path, num_texts: int = 9000) -> Corpus:
    """Two files of rows whose tokens are all the row's own number."""
    files = pyarrow.fs.LocalFileSystem()
    rng = np.random.default_rng(0)
    rows = [[i] * int(rng.integers(3, 30)) for i in range(num_texts)]
    parts = [
        write_part(files, str(folder), "a.parquet", iter([rows[:5000]])),
        write_part(files, str(folder), "b.parquet", iter([rows[5000:7000], rows[7000:]])),
    ]
    write_manifest(files, str(folder), "key", parts, [])
    return Corpus.open(files, str(folder), "train")


def test_an_epoch_reads_every_text_once_and_another_epoch_in_another_order(tmp_path: Path) -> None:
    stream = Stream(make_corpus(tmp_path), 512, seed=0)
    epochs: dict[int, list[int]] = {0: [], 1: []}
    for position, texts, rows in stream.read(Position()):
        if position.epoch == 2:
            break
        epochs[position.epoch] += texts.ids[texts.starts_N1[rows]].tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(9000))
    assert epochs[0] != epochs[1]


def test_reading_from_a_position_goes_on_as_reading_from_the_start(tmp_path: Path) -> None:
    stream = Stream(make_corpus(tmp_path), 512, seed=3)
    number = 2 * stream.num_batches() // 3
    source = stream.read(Position())
    first = [next(source) for _ in range(number + 400)]
    again = stream.read(first[number][0])
    for position, texts, rows in first[number:]:
        other, other_texts, other_rows = next(again)
        assert position == other
        padded, _ = texts.padded(rows, 0)
        np.testing.assert_array_equal(padded, other_texts.padded(other_rows, 0)[0])


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("no tokenised corpus")):
        Corpus.open(pyarrow.fs.LocalFileSystem(), str(tmp_path), "train")


def test_without_attention_dropout_only_states_are_dropped_and_the_saved_shape_is_the_same() -> (
    None
):
    usual, _ = tiny()
    changed, _ = tiny(attention_dropout=0.0)
    shares = {
        name: module.p
        for name, module in changed.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert {name for name, share in shares.items() if share == 0.0} == {
        f"encoder.encoder.layer.{layer}.attention.self.dropout" for layer in (0, 1)
    }
    assert changed.encoder.config.to_dict() == usual.encoder.config.to_dict()
