"""Adapters on a tiny random BERT: nothing at the start, same vectors merged or not, one base."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel, PreTrainedModel

from rove.adaptation import adapters
from rove.adaptation.layers import block_ends, linear_maps
from rove.adaptation.low_rank import LowRank
from rove.config import AdaptSection, EncoderSection
from rove.encoder import Encoder, digest_of, load_model
from rove.errors import ConfigError
from tests.colours import write_encoder

WORDS = ["red", "blue", "lamp", "vase", "##s", "cup", "tea", "a", "of", "for", "two", "?"]
TEXTS = ["red lamp", "a cup of tea for two", "", "vases", "tea", "blue vase for a red cup of tea"]
METHODS = ("lora", "adalora", "houlsby")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers and 16 dimensions."""
    path = tmp_path_factory.mktemp("bert")
    write_encoder(path, WORDS)
    return path


def section(folder: Path, **settings: Any) -> EncoderSection:
    return EncoderSection(model=str(folder), max_tokens=32, dtype="float32", **settings)


def settings(method: str, **more: Any) -> AdaptSection:
    return AdaptSection.model_validate(
        {"method": method, "layers": 1, "rank": 2, "bottleneck": 4, "dropout": 0.0} | more
    )


def trained(
    folder: Path, method: str, **more: Any
) -> tuple[adapters.Adapter, PreTrainedModel, str]:
    """An adapter with random values, the model that it is in, and the digest of that one before."""
    model, tokenizer = load_model(section(folder))
    base = digest_of(model, tokenizer)
    torch.manual_seed(1)
    adapter = adapters.attach(model, settings(method, **more), total_steps=100)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return adapter, model, base


def written(folder: Path, method: str, path: Path) -> tuple[adapters.Adapter, PreTrainedModel]:
    adapter, model, base = trained(folder, method)
    adapters.write(path, adapter, 0.1 * torch.randn(16, 16), method=method, base=base)
    return adapter, model


def states(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([[2, 5, 7, 3]]))
    result: torch.Tensor = output.last_hidden_state
    return result


@pytest.mark.parametrize("method", METHODS)
def test_a_new_adapter_changes_nothing_and_base_weights_are_frozen(
    folder: Path, method: str
) -> None:
    model, _ = load_model(section(folder))
    before, names = states(model), {name for name, _ in model.named_parameters()}
    adapter = adapters.attach(model, settings(method), total_steps=100)
    torch.testing.assert_close(states(adapter.model), before, atol=1e-6, rtol=0)
    assert all(
        not tensor.requires_grad for name, tensor in model.named_parameters() if name in names
    )
    assert any(tensor.requires_grad for tensor in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_reads_a_folder_and_gives_the_vectors_of_the_adapter_in_training(
    folder: Path, method: str, tmp_path: Path
) -> None:
    """z = (I + W) h / |(I + W) h|, h the mean over [CLS] red lamp [SEP]."""
    adapter, _ = written(folder, method, tmp_path)
    file = adapters.read(tmp_path, Encoder.load(section(folder)).name)
    mean = states(adapter.model)[0].mean(0)
    expected = torch.nn.functional.normalize((torch.eye(16) + file.projection_EE) @ mean, dim=0)
    vector = Encoder.load(section(folder, adapter=tmp_path)).encode(["red lamp"])[0]
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_base_weights_stay_byte_identical_and_a_saved_encoder_has_its_adapter(
    folder: Path, method: str, tmp_path: Path
) -> None:
    written(folder, method, tmp_path / "adapter")
    encoder = Encoder.load(section(folder, adapter=tmp_path / "adapter"))
    encoder.encode(TEXTS)
    encoder.save(tmp_path / "saved")
    before = load_file(folder / "model.safetensors")
    for name, tensor in load_file(tmp_path / "saved" / "model.safetensors").items():
        assert tensor.numpy().tobytes() == before[name].numpy().tobytes()
    again = Encoder.load(section(tmp_path / "saved"))
    plain = Encoder.load(section(folder))
    assert again.name == encoder.name != plain.name
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert np.abs(plain.encode(TEXTS) - encoder.encode(TEXTS)).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_training_can_start_from_a_written_adapter(
    folder: Path, method: str, tmp_path: Path
) -> None:
    _, model = written(folder, method, tmp_path)
    other, tokenizer = load_model(section(folder))
    file = adapters.read(tmp_path, digest_of(other, tokenizer))
    adapter = adapters.attach(other, settings(method), total_steps=100)
    adapters.load_into(adapter, file, settings(method))
    torch.testing.assert_close(states(adapter.model), states(model), atol=1e-5, rtol=0)


def test_an_adapter_of_another_method_is_no_start(folder: Path, tmp_path: Path) -> None:
    written(folder, "lora", tmp_path)
    model, tokenizer = load_model(section(folder))
    file = adapters.read(tmp_path, digest_of(model, tokenizer))
    adapter = adapters.attach(model, settings("houlsby"), total_steps=100)
    with pytest.raises(ConfigError, match=re.escape("has no place for; use the settings")):
        adapters.load_into(adapter, file, settings("houlsby"))


def test_adapters_go_where_they_should(folder: Path) -> None:
    """A layer of BERT has 6 linear maps; the blocks end in attention.output and output."""
    model, _ = load_model(section(folder))
    assert len(linear_maps(model, None)) == 12
    assert block_ends(model, 1) == [
        "encoder.layer.1.attention.output.dense",
        "encoder.layer.1.output.dense",
    ]


def test_adalora_cuts_its_ranks_to_the_budget_while_it_trains(folder: Path, tmp_path: Path) -> None:
    """Six maps with 3 directions each at the start, 2 on average after two thirds of the steps."""
    model, tokenizer = load_model(section(folder))
    base = digest_of(model, tokenizer)
    torch.manual_seed(0)
    adapter = adapters.attach(model, settings("adalora"), total_steps=60)
    assert isinstance(adapter, LowRank)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.01)
    ids, wanted = torch.tensor([[2, 5, 7, 3]]), torch.randn(1, 4, 16)
    kept = []
    for step in range(60):
        output = adapter.model(input_ids=ids).last_hidden_state
        loss = (output - wanted).square().mean() + adapter.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        adapter.after_step(step)
        kept.append(sum(adapter.ranks().values()))
    assert max(kept) == 18
    assert kept[-1] == 12
    assert kept == sorted(kept, reverse=True) or min(kept) == 12
    adapters.write(tmp_path, adapter, torch.zeros(16, 16), method="adalora", base=base)
    file = adapters.read(tmp_path, base)
    assert sum(len(t) for name, t in file.tensors.items() if "lora_E" in name) == 12
    applied, _ = load_model(section(folder))
    adapters.apply(applied, file)
    torch.testing.assert_close(states(applied), states(adapter.model.eval()), atol=1e-5, rtol=0)


def test_adalora_goes_on_with_the_budget_it_had(folder: Path) -> None:
    adapter, model, _ = trained(folder, "adalora")
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.grad = torch.ones_like(tensor)
    for step in (50, 51, 66, 67):
        adapter.after_step(step)
    again, _, _ = trained(folder, "adalora")
    again.restore(adapter.state())
    assert again.state().keys() == adapter.state().keys() != set()
    for name, kept in adapter.state().items():
        torch.testing.assert_close(again.state()[name], kept)


def test_an_adapter_for_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    written(folder, "lora", tmp_path / "adapter")
    torch.manual_seed(5)
    model, tokenizer = load_model(section(folder))
    other = BertModel(copy.deepcopy(model.config))  # type: ignore[arg-type]
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=re.escape("an adapter for the encoder ")):
        Encoder.load(section(tmp_path / "other", adapter=tmp_path / "adapter"))


@pytest.mark.parametrize("name", ["adapter.json", "adapter_model.safetensors"])
def test_a_damaged_adapter_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    written(folder, "lora", tmp_path)
    (tmp_path / name).write_bytes(b"\x00" * 50)
    with pytest.raises(ConfigError, match=re.escape("not a readable adapter: ")):
        Encoder.load(section(folder, adapter=tmp_path))


def test_an_adapter_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    written(folder, "houlsby", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"width": 5}))
    with pytest.raises(ConfigError, match=re.escape("does not fit the encoder: ")):
        Encoder.load(section(folder, adapter=tmp_path))


def test_more_layers_than_the_encoder_has_are_refused(folder: Path) -> None:
    model, _ = load_model(section(folder))
    with pytest.raises(ConfigError, match=re.escape("adapt.layers is 3, the encoder has 2")):
        adapters.attach(model, settings("lora", layers=3), total_steps=10)
