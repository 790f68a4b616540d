"""One process or several: who we are among them, and what that means for a batch.

Started by ``torchrun`` when several processes share a run; alone otherwise.
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
    """This process's part of the run: `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0

    def part(self, whole: Tensor) -> Tensor:
        """Return this process's rows of a batch ``[N, ...]`` drawn alike in every process.

        N is a multiple of `world`.
        """
        return whole.chunk(self.world)[self.rank] if self.world > 1 else whole

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
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()

    def wrap(
        self, network: nn.Module, device: torch.device, *, some_idle: bool = False
    ) -> nn.Module:
        """Make the network's gradients the mean over the processes.

        `some_idle` is for networks that do not use all of their weights at every turn.

        Batch normalisation sees the whole batch where the backend can (CUDA); on the CPU each
        process normalises by its own part.
        """
        if self.world == 1 or not any(p.requires_grad for p in network.parameters()):
            return network
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        # A player is called several times a turn, so buffers may not be overwritten in between.
        return DistributedDataParallel(
            network, forward_sync_buffers=False, find_unused_parameters=some_idle
        )

    @contextmanager
    def gathering(self, network: nn.Module, *, last: bool) -> Iterator[None]:
        """Run a forward and a backward pass of which only the `last` exchanges the gradients."""
        if last or not isinstance(network, DistributedDataParallel):
            yield
        else:
            with network.no_sync():
                yield


@contextmanager
def joined(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group that ``torchrun`` describes in the environment, if it does.

    What the group's processes share (wrapped networks) must be gone when the block ends.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield DistributedContext()
        return
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        device_id=device if cuda else None,
        # The others wait while the leader decodes, which may take long the first time.
        timeout=timedelta(hours=6),
    )
    share = DistributedContext(dist.get_rank(), world)
    try:
        yield share
        # Nobody leaves while another still talks to it.
        share.wait()
    finally:
        dist.destroy_process_group()
