"""Where in a transformer adapters go, and Houlsby's bottleneck.

A bottleneck stands after each attention and each feed-forward block, on the block's last linear map
and before the residual sum (Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP"):

    h <- h + U gelu(D h)        D: width x size, U: size x width, U = 0 at the start
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rove.errors import ConfigError

_LAYERS = ("encoder.layer", "transformer.layer", "layers", "encoder.layers")
"""What the transformers library calls the layers of BERT and its relatives."""


class Bottleneck(nn.Module):
    """Houlsby's adapter; the identity at the start."""

    def __init__(self, size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.down.weight, std=1e-2)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Map states (..., size) to as many."""
        inner = nn.functional.gelu(self.down(states))
        result: torch.Tensor = states + self.up(self.dropout(inner))
        return result


class Adapted(nn.Module):
    """A linear map with a bottleneck behind it."""

    def __init__(self, base: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        result: torch.Tensor = self.adapter(self.base(states))
        return result


def layer_prefix(model: nn.Module) -> str:
    """Return the name of the list of the model's layers."""
    for name in _LAYERS:
        try:
            if isinstance(model.get_submodule(name), nn.ModuleList):
                return name
        except AttributeError:
            continue
    raise ConfigError(
        f"adapters are for BERT and its relatives, got {type(model).__name__}, whose layers are "
        f"not called {', '.join(_LAYERS)}; choose another encoder.model"
    )


def first_adapted(model: nn.Module, num_layers: int | None) -> int:
    """Return the index of the lowest layer that adapts when the topmost `num_layers` do."""
    total = len(list(model.get_submodule(layer_prefix(model)).children()))
    if num_layers is not None and num_layers > total:
        raise ConfigError(
            f"adapt.layers is {num_layers}, the encoder has {total}; lower it, or null for all"
        )
    return 0 if num_layers is None else total - num_layers


def linear_maps(model: nn.Module, num_layers: int | None) -> list[str]:
    """Return the names of the linear maps in the topmost `num_layers` layers."""
    prefix, first = layer_prefix(model), first_adapted(model, num_layers)
    layers = model.get_submodule(prefix)
    return [
        f"{prefix}.{index}.{name}"
        for index, layer in enumerate(layers.children())
        if index >= first
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]


def block_ends(model: nn.Module, num_layers: int | None) -> list[str]:
    """Return the names of the last linear map of each attention and feed-forward block."""
    last: dict[tuple[str, bool], str] = {}
    depth = layer_prefix(model).count(".") + 2
    for name in linear_maps(model, num_layers):
        parts = name.split(".")
        last[(".".join(parts[:depth]), "attention" in parts[depth:])] = name
    return list(last.values())


def insert(model: nn.Module, names: Sequence[str], width: int, dropout: float) -> nn.ModuleDict:
    """Put a new bottleneck behind each named linear map and return them by name (dots as `/`)."""
    adapters: dict[str, nn.Module] = {}
    for name in names:
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        adapter = Bottleneck(base.out_features, width, dropout).to(base.weight.device)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Adapted(base, adapter))
        adapters[name.replace(".", "/")] = adapter
    return nn.ModuleDict(adapters)
