"""A generator from each of two sets of pictures to the other, called as one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Across(NamedTuple):
    """What both generators make of pictures of both sets, all ``[N, C, H, W]``."""

    target: Tensor
    source: Tensor
    # There and back.
    source_again: Tensor
    target_again: Tensor
    # Of pictures that are of the set already, where they were asked for.
    source_kept: Tensor | None
    target_kept: Tensor | None


class Directions(nn.ModuleDict):
    """Two networks by direction: from source to target, then from target to source."""

    def forward(self, source: Tensor, target: Tensor, *, keep: bool) -> Across:
        """Take pictures of both sets across and back; all in one call, so that processes that
        share a run exchange gradients once.
        """
        there, back = self.values()
        made_target, made_source = there(source), back(target)
        return Across(
            made_target,
            made_source,
            back(made_target),
            there(made_source),
            back(source) if keep else None,
            there(target) if keep else None,
        )
