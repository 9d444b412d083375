"""Tokens to unit vectors, with gradients: what `rove.encoder` computes, ready to be trained.

    z = (I + W) h / |(I + W) h|,    h: mean of the last layer's states over a text's tokens

- The output of the layers below the lowest adapter is computed once per token and kept, up to a
  gigabyte. It is that of the frozen weights, so nothing is lost by it.
- Dropout acts in the adapters only: the frozen layers are what they are in serving.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from rove.adaptation.layers import first_adapted, layer_prefix
from rove.adaptation.texts import Ints, Mask, Texts, hide
from rove.config import AdaptSection
from rove.encoder import by_length

_KEPT_BYTES = 1 << 30
_CAN_BE_SPLIT = ("bert", "roberta", "xlm-roberta", "camembert")
"""Types of models whose layers take states and a mask, and nothing else."""


class Tower(nn.Module):
    """The adapted model and the projection over a catalogue's texts."""

    def __init__(
        self, model: PreTrainedModel, texts: Texts, section: AdaptSection, batch_tokens: int
    ) -> None:
        """`model` has its adapter in it (`rove.adaptation.adapters.attach`)."""
        super().__init__()
        size = int(model.config.hidden_size)
        self.model = model
        self.projection = nn.Parameter(torch.zeros(size, size))
        self.texts = texts
        self._section = section
        self._batch_tokens = batch_tokens
        splits = model.config.model_type in _CAN_BE_SPLIT
        self._first = first_adapted(model, section.layers) if splits else None
        self._kept: torch.Tensor | None = None
        if self._first and len(texts.ids) * size * 4 <= _KEPT_BYTES:
            self._kept = self._lower_states()

    @property
    def size(self) -> int:
        """E, the size of a vector."""
        return len(self.projection)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.projection.device

    def train(self, mode: bool = True) -> Tower:
        """Switch the adapters' dropout, and no other, on or off."""
        super().train(mode)
        for name, module in self.model.named_modules():
            module.training = mode and ("lora_dropout" in name or ".adapter" in name)
        return self

    def forward(self, rows: Ints, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Return the vectors (n, E) of the items; with `rng`, of texts with parts hidden."""
        parts, order = [], []
        for chosen in self.batches(rows):
            order.extend(chosen)
            parts.append(self._batch(rows[chosen], rng))
        vectors = torch.cat(parts)
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return vectors[back.to(vectors.device)]

    def batches(self, rows: Ints) -> Iterator[list[int]]:
        """Yield which of the items `rows` go through the model together, padded to the longest."""
        return by_length(self.texts.lengths(rows).tolist(), self._batch_tokens)

    def read(self, ids: Ints, present: Mask) -> torch.Tensor:
        """Return the vectors (n, E) of padded tokens (n, T) that are no item's."""
        mask = torch.from_numpy(present).to(self.device)
        tokens = torch.from_numpy(ids).to(self.device)
        if self._first is None:
            output = self.model(input_ids=tokens, attention_mask=mask.to(torch.int64))
            return self._pooled(output.last_hidden_state, mask)
        states = self._embeddings()(input_ids=tokens)
        return self._pooled(self._layers(states, mask, 0, None), mask)

    def _batch(self, rows: Ints, rng: np.random.Generator | None) -> torch.Tensor:
        positions, present = self.texts.positions(rows)
        if rng is not None:
            present = hide(
                self.texts,
                rows,
                present,
                rng,
                span_share=self._section.span_deletion,
                field_probability=self._section.field_dropout,
            )
        if self._kept is None:
            return self.read(self.texts.padded(rows)[0], present)
        mask = torch.from_numpy(present).to(self.device)
        states = self._kept[torch.from_numpy(positions).to(self._kept.device)].to(self.device)
        return self._pooled(self._layers(states, mask, self._first or 0, None), mask)

    def _layers(
        self, states: torch.Tensor, mask: torch.Tensor, start: int, stop: int | None
    ) -> torch.Tensor:
        hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(
            ~mask, torch.finfo(torch.float32).min
        )
        layers = list(self.model.get_submodule(layer_prefix(self.model)).children())
        for layer in layers[start:stop]:
            states = layer(states, hidden[:, None, None, :])
        return states

    def _embeddings(self) -> Any:
        return self.model.embeddings

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sums = (states * mask[..., None]).sum(1)
        return nn.functional.normalize(sums + sums @ self.projection.T, dim=1)

    @torch.no_grad()
    def _lower_states(self) -> torch.Tensor:
        """Return the states (tokens, E) that go into the lowest adapted layer."""
        kept = torch.empty(len(self.texts.ids), self.size)
        self.train(False)
        every = np.arange(len(self.texts))
        for chosen in by_length(self.texts.lengths(every).tolist(), self._batch_tokens):
            ids, present = self.texts.padded(every[chosen])
            mask = torch.from_numpy(present)
            states = self._embeddings()(input_ids=torch.from_numpy(ids))
            states = self._layers(states, mask, 0, self._first)
            positions, _ = self.texts.positions(every[chosen])
            kept[torch.from_numpy(positions[present])] = states[mask]
        return kept
