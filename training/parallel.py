"""One model on several processes: what they exchange, and how the model is spread.

Without a process group everything here is the identity, so the loop is the same for one worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """This worker among all workers of the run."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Group:
        """Return the process group that was started, or a group of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size())
        return cls()

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Return the sums over all workers."""
        if self.size == 1:
            return values
        both = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(both)
        return both.tolist()


def spread(model: nn.Module, strategy: Literal["ddp", "fsdp"], device: torch.device) -> nn.Module:
    """Wrap a model that is on `device`; all workers hold the same weights."""
    group = Group.current()
    if strategy == "fsdp" and dist.is_initialized():
        mesh = init_device_mesh(device.type, (group.size,))
        for layer in _layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    if group.size == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def bare(model: nn.Module) -> nn.Module:
    """Return the model without its wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextmanager
def exchanging(model: nn.Module, is_last: bool) -> Iterator[None]:
    """Exchange gradients only in the last of a step's backward passes."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)
    yield


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be spread; every worker has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this worker's part of `value`, spread as `like` is."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of the longest list of modules: a transformer's layers."""
    lists = [list(one) for one in model.modules() if isinstance(one, nn.ModuleList)]
    return max(lists, key=lambda layers: len(layers), default=[])
