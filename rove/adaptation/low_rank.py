"""LoRA and AdaLoRA by peft (extra `adapt`); what is trained is written in peft's own format.

    W x <- W x + (2 rank / rank) B A x                                  Hu et al. 2022
    W x <- W x + B diag(E) A x, with the least important of E set to 0  Zhang et al. 2023

AdaLoRA begins with half as many directions again as it may keep on average, and gives its budget
to the maps where they matter: constant for a tenth of the steps, cut down until two thirds of them,
then fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from rove.config import AdaptSection

_START, _END = 0.1, 2 / 3  # shares of the steps between which AdaLoRA cuts ranks
_HEAD_START = 1.5
_ORTHOGONAL = 0.1
_NAME = "default"  # peft's name of the only adapter
_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class LowRank:
    """A trainable LoRA or AdaLoRA on a model, whose own weights are frozen."""

    def __init__(self, model: PeftModel, *, adaptive: bool) -> None:
        self.model = model
        self._adaptive = adaptive

    def _config(self) -> AdaLoraConfig:
        config = self.model.peft_config[_NAME]
        assert isinstance(config, AdaLoraConfig)
        return config

    def _tuner(self) -> Any:
        return self.model.base_model

    def _allocator(self) -> Any:
        return self._tuner().rankallocator

    def penalty(self) -> torch.Tensor:
        """Return how far AdaLoRA's directions are from orthogonal: mean |P'P - I|; else 0."""
        terms = [
            torch.linalg.matrix_norm(
                (tensor @ tensor.T if "lora_A" in name else tensor.T @ tensor)
                - torch.eye(min(tensor.shape), device=tensor.device)
            )
            for name, tensor in self.model.named_parameters()
            if self._adaptive and ("lora_A" in name or "lora_B" in name)
        ]
        return _ORTHOGONAL * torch.stack(terms).mean() if terms else torch.zeros(())

    def after_step(self, step: int) -> None:
        """Move AdaLoRA's budget after step 0, 1, ...; gradients are still there."""
        if self._adaptive:
            self._tuner().update_and_allocate(step)

    def settle(self) -> None:
        """Set what AdaLoRA has cut to zero, so that what is measured is what is written."""
        pattern = self._config().rank_pattern if self._adaptive else None
        if pattern:
            self._allocator().mask_using_rank_pattern(self.model.base_model.model, pattern)

    def state(self) -> dict[str, torch.Tensor]:
        """Return AdaLoRA's importances and budget, to go on later; its weights are the model's."""
        if not self._adaptive:
            return {}
        allocator, kept = self._allocator(), self._config().rank_pattern or {}
        parts = {part: getattr(allocator, part) for part in _IMPORTANCES}
        tensors = {
            f"{part}|{name}": tensor
            for part, of_name in parts.items()
            for name, tensor in of_name.items()
        }
        return tensors | {f"kept|{name}": torch.tensor(mask) for name, mask in kept.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Undo `state`."""
        if not self._adaptive:
            return
        split: dict[str, dict[str, torch.Tensor]] = {"kept": {}}
        for key, tensor in state.items():
            part, _, name = key.partition("|")
            split.setdefault(part, {})[name] = tensor
        for part in _IMPORTANCES:
            setattr(self._allocator(), part, split.get(part, {}))
        kept = {name: mask.tolist() for name, mask in split["kept"].items()}
        self._config().rank_pattern = kept or None

    def ranks(self) -> dict[str, int]:
        """Return how many directions each map has that are not zero."""
        kept = {}
        for name, module in self.model.named_modules():
            if hasattr(module, "lora_E") and _NAME in module.lora_E:
                kept[name] = int(torch.count_nonzero(module.lora_E[_NAME]))
            elif hasattr(module, "lora_A") and _NAME in module.lora_A:
                kept[name] = int(module.r[_NAME])
        return kept

    def write(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`."""
        pattern = self._config().rank_pattern if self._adaptive else None
        with warnings.catch_warnings():
            # peft looks for the base model's configuration to see whether its vocabulary changed.
            warnings.simplefilter("ignore")
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
        if self._adaptive:
            self._config().rank_pattern = pattern  # saving renames its keys
        (folder / "README.md").unlink(missing_ok=True)


def attach(
    model: PreTrainedModel, section: AdaptSection, names: Sequence[str], total_steps: int
) -> LowRank:
    """Put a new adapter on the named linear maps of the model, in place."""
    if section.method == "lora":
        config: LoraConfig = LoraConfig(
            r=section.rank,
            lora_alpha=2 * section.rank,
            lora_dropout=section.dropout,
            target_modules=list(names),
        )
    else:
        start = max(1, int(_START * total_steps))
        config = AdaLoraConfig(
            init_r=max(section.rank + 1, round(_HEAD_START * section.rank)),
            target_r=section.rank,
            tinit=start,
            tfinal=max(1, total_steps - int(_END * total_steps)),
            deltaT=max(1, total_steps // 100),
            total_step=max(total_steps, start + 3),
            lora_alpha=2 * section.rank,
            lora_dropout=section.dropout,
            target_modules=list(names),
        )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        peft_model = get_peft_model(model, config)
    assert isinstance(peft_model, PeftModel)
    return LowRank(peft_model, adaptive=section.method == "adalora")
