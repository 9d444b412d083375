"""The training loop without Ray, on a tiny model: repeats, goes on, adds up, and learns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
import torch

from rove.config import PretrainSection, ScratchSection
from rove.errors import DataError
from rove.pretraining.masking import Vocabulary
from rove.pretraining.model import MaskedLanguageModel, from_scratch
from rove.pretraining.stream import Corpus, Stream, write_manifest, write_part
from rove.pretraining.tokenizer import train_tokenizer
from training.loop import Batches, Loop, Step, steps_of
from training.precision import choose

LETTERS = "abcdefgh"
TEXTS = [f"{a}{b} {b}{a} {a}{b}{c} {c}{b}" for a in LETTERS for b in LETTERS for c in LETTERS]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """512 texts whose words repeat each other's letters; every seventh is held out."""
    folder = str(tmp_path_factory.mktemp("corpus"))
    rows = train_tokenizer(lambda: TEXTS, 120, 32)(TEXTS)["input_ids"]
    files = pyarrow.fs.LocalFileSystem()
    train = [row for i, row in enumerate(rows) if i % 7]
    parts = [write_part(files, folder, "train.parquet", iter([train]))]
    held_out = [write_part(files, folder, "held_out.parquet", iter([rows[::7]]))]
    write_manifest(files, folder, "key", parts, held_out)
    return Corpus.open(files, folder, "train")


def make_loop(corpus: Corpus, num_steps: int = 12, **settings: Any) -> Loop:
    shape = ScratchSection(layers=1, hidden=32, vocabulary=120)
    fields = {"batch_tokens": 512, "learning_rate": 1e-3, **settings}
    section = PretrainSection(start="scratch", scratch=shape, **fields)
    tokenizer = train_tokenizer(lambda: TEXTS, shape.vocabulary, 32)
    torch.manual_seed(section.seed)
    model = from_scratch(section, tokenizer)
    return Loop(
        section,
        model,
        Batches(section, Vocabulary.of(tokenizer), CPU),
        Stream(corpus, section.batch_tokens, section.seed),
        num_steps=num_steps,
        dtype=torch.float32,
        device=CPU,
    )


def ignore(step: Step) -> None:
    """Take no notice."""


def losses(loop: Loop) -> list[float]:
    return [one["loss"] for one in loop.curve]


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in loop.model.named_parameters()}


def test_the_same_seed_gives_the_same_curve_and_weights_bit_for_bit(corpus: Corpus) -> None:
    one, two, other = (make_loop(corpus, seed=seed) for seed in (0, 0, 1))
    for loop in (one, two, other):
        loop.run(ignore)
    assert losses(one) == losses(two) != losses(other)
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "contrastive_weight": 0.1}])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    corpus: Corpus, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Stopped after 7 of 12 steps: bit for bit the same curve and weights."""
    unbroken = make_loop(corpus, **settings)
    unbroken.run(ignore)
    first = make_loop(corpus, **settings)
    for _ in range(7):
        first.advance()
    first.save(tmp_path)
    for _ in range(2):
        first.advance()  # is lost
    second = make_loop(corpus, **settings)
    second.load(tmp_path)
    second.run(ignore)
    assert losses(second) == losses(unbroken)
    assert all(torch.equal(one, weights(unbroken)[name]) for name, one in weights(second).items())


def test_a_checkpoint_holds_no_pickle(corpus: Corpus, tmp_path: Path) -> None:
    loop = make_loop(corpus)
    loop.advance()
    loop.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["model.safetensors", "moments.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused(corpus: Corpus, tmp_path: Path, name: str) -> None:
    loop = make_loop(corpus)
    loop.advance()
    loop.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=re.escape("the checkpoint is damaged: ")):
        make_loop(corpus).load(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    loop = make_loop(corpus)
    loop.advance()
    loop.save(tmp_path)
    with pytest.raises(DataError, match=re.escape("the checkpoint is of another model")):
        make_loop(corpus, head="new").load(tmp_path)


def test_a_step_adds_up_its_batches_as_one_loss(corpus: Corpus) -> None:
    """Without dropout, the gradient of two batches in a step is that of the mean over the hidden
    tokens of both, not the mean of two means."""
    loop = make_loop(corpus, accumulate=2, clip_norm=1e9)
    model = loop.model
    assert isinstance(model, MaskedLanguageModel)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    taken = loop._take(2)
    total = sum(model(*batch.inputs()[:4])[0] for batch in taken)
    count = sum(len(batch.targets_M) for batch in taken)
    assert not isinstance(total, int)
    (total / count).backward()
    squares = [float((one.grad**2).sum()) for one in model.parameters() if one.grad is not None]
    model.zero_grad()
    fresh = make_loop(corpus, accumulate=2, clip_norm=1e9)
    fresh.model = model
    step = fresh.advance()
    assert step.loss == pytest.approx(float(total.detach()) / count, rel=1e-5)
    assert step.gradient_norm == pytest.approx(float(np.sqrt(sum(squares))), rel=1e-4)


def test_the_loss_on_held_out_texts_falls(corpus: Corpus) -> None:
    """From log(120) = 4.8 nats a token or so."""
    loop = make_loop(corpus, num_steps=120, learning_rate=3e-3)
    held_out = Stream(Corpus.open(corpus.filesystem, corpus.folder, "held_out"), 512, seed=0)
    before = loop.measure(held_out, 2)
    assert before == pytest.approx(loop.measure(held_out, 2))
    loop.run(ignore)
    after = loop.measure(held_out, 2)
    assert 3.0 < before < 6.0
    assert after < 0.85 * before


def test_simcse_alone_makes_texts_unlike_each_other(corpus: Corpus) -> None:
    loop = make_loop(corpus, num_steps=40, contrastive_weight=10.0, learning_rate=3e-3)
    loop.run(ignore)
    first, last = loop.curve[0]["contrastive"], loop.curve[-1]["contrastive"]
    assert 0 < last < first


def test_padding_is_counted(corpus: Corpus) -> None:
    step = make_loop(corpus).advance()
    assert 0.0 <= step.padding < 0.05
    assert step.num_tokens > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 50), ({"epochs": 2.5}, 125), ({"accumulate": 4}, 12), ({"max_steps": 7}, 7)],
)
def test_the_number_of_steps(settings: dict[str, Any], expected: int) -> None:
    """100 batches on 2 workers."""
    assert steps_of(PretrainSection(**settings), 100, 2) == expected


@pytest.mark.parametrize(
    ("wanted", "possible"),
    [
        ("float32", {torch.float32}),
        ("bfloat16", {torch.bfloat16}),
        ("auto", {torch.float32, torch.bfloat16}),
    ],
)
def test_the_precision_is_the_one_wanted_or_one_of_both(
    corpus: Corpus, wanted: Any, possible: set[torch.dtype]
) -> None:
    """The measurement leaves no gradient behind."""
    loop = make_loop(corpus)
    model = loop.model
    assert isinstance(model, MaskedLanguageModel)
    section = PretrainSection()
    vocabulary = Vocabulary.of(train_tokenizer(lambda: TEXTS, 120, 32))
    batches = Batches(section, vocabulary, CPU)
    assert choose(model, batches, Stream(corpus, 512, 0), wanted, CPU) in possible
    assert all(one.grad is None for one in model.parameters())
