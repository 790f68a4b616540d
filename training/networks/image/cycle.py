"""Two image-to-image generators, one for each direction, called as one module."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class CycleOutputs(NamedTuple):
    """The outputs of both generators for a batch of each set, ``[N, C, H, W]`` each."""

    # G(x) and F(y): both batches translated to the other set.
    fake_target: Tensor
    fake_source: Tensor
    # F(G(x)) and G(F(y)): both batches translated back, for the cycle consistency loss.
    cycled_source: Tensor
    cycled_target: Tensor
    # F(x) and G(y): each generator applied to images of its output set, for the identity loss.
    identity_source: Tensor | None
    identity_target: Tensor | None


class CycleGenerators(nn.ModuleDict):
    """Two networks by direction name, in this order: source to target (G), target to source (F)."""

    def forward(self, source: Tensor, target: Tensor, *, with_identity: bool) -> CycleOutputs:
        """Translate both batches to the other set and back.

        All outputs are computed in one call, so that data-parallel processes synchronize once.
        """
        to_target, to_source = self.values()
        fake_target, fake_source = to_target(source), to_source(target)
        return CycleOutputs(
            fake_target,
            fake_source,
            to_source(fake_target),
            to_target(fake_source),
            to_source(source) if with_identity else None,
            to_target(target) if with_identity else None,
        )
