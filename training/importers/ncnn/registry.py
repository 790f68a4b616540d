"""The registry of ncnn's layers, and what their modules share.

A blob of ncnn has no batch axis; here it is ``[N, C, H, W]``, and a vector of ncnn is
``[N, C, 1, 1]``. The numbers of the parameters are those of ncnn's documentation of its operators.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from training.importers.errors import ModelImportError
from training.importers.ncnn.param import Layer
from training.importers.ncnn.weights import WeightReader

Builder = Callable[[Layer, WeightReader], nn.Module]
# What builds a layer, by type.
BUILDERS: dict[str, Builder] = {}


class Apply(nn.Module):
    """A layer without weights of its own: a function of its input blobs."""

    def __init__(self, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *blobs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*blobs)


def register(*types: str) -> Callable[[Builder], Builder]:
    """Register a function that builds layers of these types."""

    def add(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(types, builder))
        return builder

    return add


def unsupported(layer: Layer, what: str) -> ModelImportError:
    """Return the error for a property of a layer that is not supported."""
    return ModelImportError(f"{layer}: {what} is not supported")


def frozen(values: Tensor) -> nn.Parameter:
    """Return weights that are not trained."""
    return nn.Parameter(values.contiguous(), requires_grad=False)
