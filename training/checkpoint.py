"""A run's state at rest: weights, moments of the optimiser, and where the data and the curve stand.

    model.safetensors   parameters by name
    moments.safetensors <moment>/<parameter's number>
    state.json          step, position in the data, the curve so far, what the run was started with

The learning rate and the random numbers are functions of the step, so this is all there is. Files
are read back whole or refused; there is no pickle.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rove.errors import DataError
from rove.pretraining.stream import Position
from training.parallel import part_like, whole

MODEL, _MOMENTS, _STATE = "model.safetensors", "moments.safetensors", "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a run stands after `step` steps."""

    step: int
    position: Position
    """The first batch that has not been learnt from."""
    dtype: str
    """What the measurement at the start chose."""
    curve: list[dict[str, float]]
    held_out: list[dict[str, float]]


def save(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, state: State, *, writes: bool
) -> None:
    """Write everything to `folder`; every worker takes part, the one that `writes` writes."""
    weights = {name: whole(one.detach()).cpu() for name, one in model.named_parameters()}
    moments = {
        f"{key}/{number}": whole(value).cpu()
        for number, parameter in enumerate(_parameters(optimiser))
        for key, value in sorted(optimiser.state[parameter].items())
    }
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / MODEL)
    save_file({k: v.contiguous() for k, v in moments.items()}, folder / _MOMENTS)
    (folder / _STATE).write_text(json.dumps(asdict(state)), "utf-8")


def load(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> State:
    """Read back what `save` wrote; raise `DataError` where that cannot be."""
    weights, moments, tree = read(folder)
    own = dict(model.named_parameters())
    if {name: tuple(one.shape) for name, one in own.items()} != {
        name: tuple(one.shape) for name, one in weights.items()
    }:
        raise DataError(
            f"{folder}: the checkpoint is of another model; give pretrain.path another folder"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(part_like(weights[name], parameter))
    for number, tensor in enumerate(_parameters(optimiser)):
        optimiser.state[tensor] = {
            key.partition("/")[0]: _moment(value, tensor)
            for key, value in moments.items()
            if key.partition("/")[2] == str(number)
        }
    return State(**{**tree, "position": Position(**tree["position"])})


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return weights, moments and the state's fields; raise `DataError` for a damaged folder."""
    try:
        tree = json.loads((folder / _STATE).read_text("utf-8"))
        return load_file(folder / MODEL), load_file(folder / _MOMENTS), tree
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error, "pretrain") from None


def check(folder: Path, place: str, section: str) -> None:
    """Read all of a checkpoint's files; raise `DataError` that names `place` for a damaged one."""
    try:
        for path in sorted(folder.rglob("*")):
            if path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".safetensors":
                load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(place, error, section) from None


def _damaged(place: str | Path, error: Exception, section: str) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return DataError(
        f"{place}: the checkpoint is damaged: {reason}; give {section}.path another folder to "
        "start anew"
    )


def _moment(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a moment beside its parameter; the optimiser's step count is no moment."""
    return value.to(parameter.device) if value.ndim == 0 else part_like(value, parameter)


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [one for group in optimiser.param_groups for one in group["params"]]
