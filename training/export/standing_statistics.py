"""Standing statistics: what batch normalisation knows of a batch, fitted before serving.

Brock et al. 2018, arXiv:1809.11096, appendix C.1. The running averages of training belong to
weights that the averaged generator does not have, and to latents that were not truncated. So they
are taken anew, over many batches of what will be served, and once for each of several truncations,
since activations grow with the latents. Each row then mixes the two whose truncations are nearest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks.noise.biggan_layers import BatchNorm2d, StandingBatchNorm2d

# Where statistics are held. At 0 itself all latents are one, and a generator without classes has
# no statistics: the lowest stands for all below it.
TRUNCATIONS = (0.01, *(step / 10 for step in range(1, 11)))
_BATCH = 64

# Latents ``[len(seeds), z_dim] float32`` of seeds, as they are drawn when served.
Draw = Callable[[Sequence[int], int], NDArray[np.float32]]


class TruncatedGenerator(nn.Module):
    """Latents ``[N, z_dim]``, classes and truncations ``[N]`` to pictures, for serving.

    The truncation scales the latent (the truncation trick, section 3.1) and picks the statistics.
    """

    def __init__(self, generator: nn.Module, truncations: Sequence[float]) -> None:
        super().__init__()
        self.generator = generator
        self.truncations: Tensor
        self.register_buffer("truncations", torch.tensor(truncations))

    def forward(self, z: Tensor, class_index: Tensor | None, truncation: Tensor) -> Tensor:
        standing = shares(truncation, self.truncations)
        images: Tensor = self.generator(z * truncation[:, None], class_index, standing)
        return images


def shares(truncation: Tensor, held: Tensor) -> Tensor:
    """Return the shares ``[N, K]`` in which values ``[N]`` lie between those held ``[K]``.

    `held` rises. A value between two of them shares linearly between those; one outside belongs to
    the nearest. A row sums to 1.
    """
    passed = ((truncation[:, None] - held[:-1]) / (held[1:] - held[:-1])).clamp(0, 1)
    one, none = torch.ones_like(truncation[:, None]), torch.zeros_like(truncation[:, None])
    return torch.cat([one, passed], dim=1) - torch.cat([passed, none], dim=1)


def has_batch_statistics(generator: nn.Module) -> bool:
    """Whether there is a normalisation whose statistics are to stand by truncation."""
    return any(isinstance(module, BatchNorm2d) for module in generator.modules())


def with_standing_statistics(
    generator: nn.Module,
    z_dim: int,
    classes: int,
    draw: Draw,
    *,
    truncations: Sequence[float] = TRUNCATIONS,
    batches: int = 8,
) -> TruncatedGenerator:
    """Return a copy of `generator`, in evaluation, that takes a truncation for each row.

    The generator is one of BigGAN's, on the CPU; it stays as it was. Statistics are averages over
    `batches` of 64 latents, those of the seeds from 0 up, with classes in turn: the same generator
    always gives the same statistics. Raises ValueError for one without batch normalisation.
    """
    generator = copy.deepcopy(generator).eval()
    norms = {
        name: module
        for name, module in generator.named_modules()
        if isinstance(module, BatchNorm2d)
    }
    if not norms:
        raise ValueError("the generator has no batch normalisation whose statistics could stand")
    z = torch.from_numpy(draw(range(batches * _BATCH), z_dim))
    class_index = torch.arange(len(z)) % classes if classes else None
    tables = [_fitted(generator, norms, z * value, class_index) for value in truncations]
    for name, norm in norms.items():
        means, variances = zip(*(table[name] for table in tables), strict=True)
        parent, _, child = name.rpartition(".")
        standing = StandingBatchNorm2d(norm, torch.stack(means), torch.stack(variances))
        setattr(generator.get_submodule(parent), child, standing)
    return TruncatedGenerator(generator, truncations).eval()


@torch.no_grad()
def _fitted(
    generator: nn.Module,
    norms: dict[str, BatchNorm2d],
    z: Tensor,
    class_index: Tensor | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance ``[C]`` of what each normalisation sees."""
    for norm in norms.values():
        norm.reset_running_stats()
        # Without a momentum PyTorch averages over all batches alike.
        norm.momentum = None
        norm.train()
    for start in range(0, len(z), _BATCH):
        rows = slice(start, start + _BATCH)
        generator(z[rows], None if class_index is None else class_index[rows])
    fitted = {}
    for name, norm in norms.items():
        assert norm.running_mean is not None  # noqa: S101 - for the type checker
        assert norm.running_var is not None  # noqa: S101 - for the type checker
        fitted[name] = (norm.running_mean.clone(), norm.running_var.clone())
    return fitted
