"""Adapters: attach one to train it, write it to a folder, put a folder's onto a model.

    adapter_config.json         peft's own of LoRA and AdaLoRA; a bottleneck's names its places
    adapter_model.safetensors   the adapter's tensors
    projection.safetensors      W of z = (I + W) e / |(I + W) e|, after pooling
    adapter.json                method, and the digest of the model that it belongs to

- The model's own weights are frozen in training; `apply` is given a copy.
- `apply` needs no peft: low-rank maps are added to the weights, W + scale * B A, which gives the
  vectors of the adapter run beside them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from rove.adaptation.layers import Bottleneck, block_ends, insert, linear_maps
from rove.config import AdaptSection
from rove.errors import ConfigError, shown

SCHEMA_VERSION = 1
_CARD, _CONFIG = "adapter.json", "adapter_config.json"
_TENSORS, _PROJECTION = "adapter_model.safetensors", "projection.safetensors"
_PREFIX = "base_model.model."  # before every name in peft's files
_ALMOST_ZERO = 1e-5  # peft adds it to AdaLoRA's number of directions


class Adapter(Protocol):
    """An adapter in training."""

    model: Any
    """The frozen model with the adapter in it."""

    def penalty(self) -> torch.Tensor:
        """Return what is added to the loss."""

    def after_step(self, step: int) -> None:
        """Take note of an optimiser's step 0, 1, ... while its gradients are there."""

    def settle(self) -> None:
        """Make the model what `write` would write."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return what has to be known besides the weights to go on later."""

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Undo `state`."""

    def write(self, folder: Path) -> None:
        """Write configuration and tensors."""


class Houlsby:
    """Bottlenecks in training."""

    def __init__(self, model: PreTrainedModel, section: AdaptSection) -> None:
        names = block_ends(model, section.layers)
        model.requires_grad_(False)
        self.model = model
        self._adapters = insert(model, names, section.bottleneck, section.dropout)
        self._config = {"peft_type": "HOULSBY", "width": section.bottleneck, "places": names}

    def penalty(self) -> torch.Tensor:
        """Return nothing."""
        return torch.zeros(())

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Do nothing."""

    def write(self, folder: Path) -> None:
        """Write configuration and tensors."""
        (folder / _CONFIG).write_text(json.dumps(self._config, indent=2) + "\n", "utf-8")
        save_file(_plain(self._adapters.state_dict()), folder / _TENSORS)


def attach(model: PreTrainedModel, section: AdaptSection, total_steps: int) -> Adapter:
    """Put a new adapter of `section.method` into the model, in place, and freeze the rest.

    It changes nothing yet: the model's vectors stay what they were. `total_steps` plans AdaLoRA's
    budget.
    """
    if section.method == "houlsby":
        return Houlsby(model, section)
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"adapt.method {section.method} needs peft, which is not installed: "
            "pip install 'rove[adapt]', or choose adapt.method=houlsby"
        )
    module = importlib.import_module("rove.adaptation.low_rank")
    names = linear_maps(model, section.layers)
    adapter: Adapter = module.attach(model, section, names, total_steps)
    return adapter


def write(
    folder: Path, adapter: Adapter, projection_EE: torch.Tensor, *, method: str, base: str
) -> None:
    """Write an adapter's folder; `base` is the digest of the model that it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter.write(folder)
    save_file({"weight": projection_EE.detach().cpu().contiguous()}, folder / _PROJECTION)
    card = {"schema_version": SCHEMA_VERSION, "method": method, "base": base}
    (folder / _CARD).write_text(json.dumps(card, indent=2) + "\n", "utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """What an adapter's folder holds."""

    folder: Path
    method: str
    base: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    projection_EE: torch.Tensor

    @property
    def digest(self) -> str:
        """A hash of what decides the vectors."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True, default=str).encode())
        for name, tensor in sorted([*self.tensors.items(), ("projection", self.projection_EE)]):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def num_values(self) -> int:
        """Return how many numbers were trained, the projection's included."""
        return sum(t.numel() for t in self.tensors.values()) + self.projection_EE.numel()


def read(folder: Path, base: str) -> AdapterFile:
    """Read an adapter's folder; `base` is the digest of the model that it is for."""
    try:
        card = json.loads((folder / _CARD).read_text("utf-8"))
        found = AdapterFile(
            folder=folder,
            method=str(card["method"]),
            base=str(card["base"]),
            config=json.loads((folder / _CONFIG).read_text("utf-8")),
            tensors=load_file(folder / _TENSORS),
            projection_EE=load_file(folder / _PROJECTION)["weight"],
        )
        version = card["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"{folder}: not a readable adapter: {str(error).splitlines()[0]}; give a folder that "
            "training.adapt wrote"
        ) from None
    if version != SCHEMA_VERSION:
        raise ConfigError(f"{folder}: adapter of version {version}, this is {SCHEMA_VERSION}")
    if found.base != base:
        raise ConfigError(
            f"{folder}: an adapter for the encoder {found.base}, but encoder.model is {base}; give "
            "the model that it was trained on, or adapt this one"
        )
    return found


def apply(model: PreTrainedModel, file: AdapterFile) -> None:
    """Put the adapter into the model, in place."""
    try:
        if file.method == "houlsby":
            _insert(model, file)
        else:
            _merge(model, file)
    except (AttributeError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{file.folder}: does not fit the encoder: {shown(reason)}; the folder is damaged"
        ) from None


def load_into(adapter: Adapter, file: AdapterFile, section: AdaptSection) -> None:
    """Start training from a folder's adapter, of the same method and size.

    Of AdaLoRA the directions that were kept come back, beside new ones to choose from.
    """
    own = dict(_trained(adapter.model))
    for name, tensor in _training_names(file).items():
        target = own.get(name)
        if file.method != section.method or target is None or not _fits(tensor, target):
            raise ConfigError(
                f"adapt.start {shown(str(file.folder))} is a {file.method} adapter with "
                f"{shown(name)} {tuple(tensor.shape)}, which adapt.method {section.method} of this "
                "size has no place for; use the settings it was trained with"
            )
        with torch.no_grad():
            target[tuple(slice(0, size) for size in tensor.shape)] = tensor


def _fits(tensor: torch.Tensor, target: torch.Tensor) -> bool:
    pairs = zip(tensor.shape, target.shape, strict=False)
    return tensor.dim() == target.dim() and all(size <= room for size, room in pairs)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]


def _training_names(file: AdapterFile) -> dict[str, torch.Tensor]:
    """Return a folder's tensors by the names they have in training."""
    if file.method == "houlsby":
        return {_bottleneck_name(name): tensor for name, tensor in file.tensors.items()}
    ends = {".weight": ".default.weight"} if file.method == "lora" else {"": ".default"}
    ((old, new),) = ends.items()
    return {name.removesuffix(old) + new: tensor for name, tensor in file.tensors.items()}


def _bottleneck_name(name: str) -> str:
    """encoder/layer/0/output/dense.up.bias -> encoder.layer.0.output.dense.adapter.up.bias."""
    place, part, kind = name.rsplit(".", 2)
    return f"{place.replace('/', '.')}.adapter.{part}.{kind}"


def _insert(model: PreTrainedModel, file: AdapterFile) -> None:
    adapters = insert(model, file.config["places"], int(file.config["width"]), dropout=0.0)
    adapters.load_state_dict(file.tensors)
    adapters.eval()
    assert all(isinstance(adapter, Bottleneck) for adapter in adapters.values())


def _merge(model: PreTrainedModel, file: AdapterFile) -> None:
    """W + (alpha / r) B A, or W + (alpha / r_0) B diag(E) A."""
    end = ".weight" if file.method == "lora" else ""
    alpha = float(file.config["lora_alpha"])
    lefts = [name for name in file.tensors if name.endswith(f".lora_B{end}")]
    for left in lefts:
        place = left.removesuffix(f".lora_B{end}")
        down, up = file.tensors[f"{place}.lora_A{end}"], file.tensors[left]
        if file.method == "adalora":
            down = down * file.tensors[f"{place}.lora_E"]
            scale = alpha / (float(file.config["init_r"]) + _ALMOST_ZERO)
        else:
            scale = alpha / float(file.config["r"])
        weight = model.get_submodule(place.removeprefix(_PREFIX)).weight
        assert isinstance(weight, torch.Tensor)
        with torch.no_grad():
            weight += scale * (up @ down).to(weight.device)


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
