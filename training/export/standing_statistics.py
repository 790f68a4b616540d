"""Standing statistics of batch normalization, computed at export.

Brock et al. 2018, arXiv:1809.11096, appendix C.1. The running averages from training match neither
the averaged weights nor truncated latents. The statistics are therefore recomputed over many
batches of latents, drawn as in the service, once for each of several truncations. Each row
interpolates between the statistics of the two nearest truncations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks.layers.batch_norm import BatchNorm2d, StandingBatchNorm2d

# The truncations for which statistics are computed. At 0, all latents are equal and a generator
# without classes has no variance, so smaller truncations use the statistics of 0.01.
TRUNCATIONS = (0.01, *(step / 10 for step in range(1, 11)))
_BATCH = 64

# Maps seeds to latents ``[len(seeds), z_dim] float32``, in the same way as the service.
DrawLatents = Callable[[Sequence[int], int], NDArray[np.float32]]


class TruncatedGenerator(nn.Module):
    """Maps latents ``[N, z_dim]``, classes and truncations ``[N]`` to images.

    The truncation scales the latent (the truncation trick, section 3.1) and selects statistics.
    """

    def __init__(self, generator: nn.Module, truncations: Sequence[float]) -> None:
        super().__init__()
        self.generator = generator
        self.truncations: Tensor
        self.register_buffer("truncations", torch.tensor(truncations))

    def forward(self, z: Tensor, class_index: Tensor | None, truncation: Tensor) -> Tensor:
        standing = interpolation_weights(truncation, self.truncations)
        images: Tensor = self.generator(z * truncation[:, None], class_index, standing)
        return images


def interpolation_weights(values: Tensor, points: Tensor) -> Tensor:
    """Return the weights ``[N, K]`` that interpolate `values` ``[N]`` linearly between `points`.

    `points` ``[K]`` are in ascending order. Values outside their range use the nearest point. Each
    row sums to 1.
    """
    passed = ((values[:, None] - points[:-1]) / (points[1:] - points[:-1])).clamp(0, 1)
    one, zero = torch.ones_like(values[:, None]), torch.zeros_like(values[:, None])
    return torch.cat([one, passed], dim=1) - torch.cat([passed, zero], dim=1)


def has_batch_statistics(generator: nn.Module) -> bool:
    """Return True if the generator has batch normalization that supports standing statistics."""
    return any(isinstance(module, BatchNorm2d) for module in generator.modules())


def with_standing_statistics(
    generator: nn.Module,
    z_dim: int,
    classes: int,
    draw: DrawLatents,
    *,
    truncations: Sequence[float] = TRUNCATIONS,
    batches: int = 8,
) -> TruncatedGenerator:
    """Return a copy of a BigGAN generator, in eval mode, that takes one truncation per row.

    `generator` must be on the CPU and is not modified. The statistics are averages over `batches`
    batches of 64 latents. The result is deterministic, because seeds start at 0 and classes
    alternate. Raises ValueError if the generator has no batch normalization that supports standing
    statistics.
    """
    generator = copy.deepcopy(generator).eval()
    norms = {
        name: module
        for name, module in generator.named_modules()
        if isinstance(module, BatchNorm2d)
    }
    if not norms:
        raise ValueError(
            "the generator has no batch normalization that supports standing statistics"
        )
    z = torch.from_numpy(draw(range(batches * _BATCH), z_dim))
    class_index = torch.arange(len(z)) % classes if classes else None
    statistics = [_statistics(generator, norms, z * value, class_index) for value in truncations]
    for name, norm in norms.items():
        means, variances = zip(*(by_name[name] for by_name in statistics), strict=True)
        parent, _, child = name.rpartition(".")
        standing = StandingBatchNorm2d(norm, torch.stack(means), torch.stack(variances))
        setattr(generator.get_submodule(parent), child, standing)
    return TruncatedGenerator(generator, truncations).eval()


@torch.no_grad()
def _statistics(
    generator: nn.Module,
    norms: dict[str, BatchNorm2d],
    z: Tensor,
    class_index: Tensor | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean and variance ``[C]`` of the inputs of each normalization."""
    for norm in norms.values():
        norm.reset_running_stats()
        # With momentum None, PyTorch weights all batches equally.
        norm.momentum = None
        norm.train()
    for start in range(0, len(z), _BATCH):
        rows = slice(start, start + _BATCH)
        generator(z[rows], None if class_index is None else class_index[rows])
    statistics = {}
    for name, norm in norms.items():
        assert norm.running_mean is not None  # noqa: S101 - for the type checker
        assert norm.running_var is not None  # noqa: S101 - for the type checker
        statistics[name] = (norm.running_mean.clone(), norm.running_var.clone())
    return statistics
