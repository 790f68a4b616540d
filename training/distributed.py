"""Data-parallel training: the rank of this process, and its part of every batch.

Processes started by ``torchrun`` share one run. Otherwise there is a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class DistributedContext:
    """Process `rank` of `world` processes."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports to the user."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """Return the rows of this process from a batch ``[N, ...]`` that all processes hold.

        N is a multiple of `world`.
        """
        return rows.chunk(self.world)[self.rank] if self.world > 1 else rows

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def largest(self, value: int, device: torch.device) -> int:
        """Return the largest of the processes' values."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.world > 1:
            dist.barrier()

    def wrap(
        self, network: nn.Module, device: torch.device, *, unused_weights: bool = False
    ) -> nn.Module:
        """Wrap a module so that its gradients are averaged over the processes.

        Set `unused_weights` if a forward pass may leave weights unused. Batch normalization is
        synchronized over the processes on CUDA only; on the CPU, PyTorch does not support this.
        """
        if self.world == 1 or not any(p.requires_grad for p in network.parameters()):
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        # A network is called several times in one step; its buffers must not change in between.
        return DistributedDataParallel(
            network, forward_sync_buffers=False, find_unused_parameters=unused_weights
        )

    @contextmanager
    def sync_gradients(self, network: nn.Module, *, last: bool) -> Iterator[None]:
        """Context of a forward and backward pass. Gradients are exchanged only if it is the `last`
        of a step.
        """
        if last or not isinstance(network, DistributedDataParallel):
            yield
        else:
            with network.no_sync():
                yield


@contextmanager
def joined(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group of ``torchrun``, if this process was started by it.

    Wrapped networks must not be used after the block.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield DistributedContext()
        return
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        device_id=device if cuda else None,
        # The other processes wait while the main process decodes the data, which may take hours.
        timeout=timedelta(hours=6),
    )
    distributed = DistributedContext(dist.get_rank(), world)
    try:
        yield distributed
        # No process leaves while another still communicates with it.
        distributed.wait()
    finally:
        dist.destroy_process_group()
