"""The normalizations of image-to-image networks: of a batch or of each image, by the user's choice.

Instance normalization uses the statistics of each image. Batch normalization uses the running
averages of the training, or, as the authors of pix2pix sample, the statistics of each image.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from training.importers.formats.layers import load_layer
from training.importers.options import Choices
from training.importers.reading.weights import Layer

# The statistics of layers that normalize with the statistics of each image.
UNUSED_STATISTICS = {r".*\.running_(mean|var)": "statistics of the training"}


class Normalizations:
    """Builds the normalizations of a network.

    The user chooses between the statistics of each image and running averages, if the file has
    them: ``--statistics picture`` or ``running``. A layer without tensors is instance normalization
    or no normalization: ``--assume norm=``.

    Args:
        options: the user's choices.
        norms: the tensors of each normalization, or None for a layer without tensors.
        default: the statistics of batch normalization with weights.
        without_tensors: the default if no normalization has tensors.
    """

    def __init__(
        self,
        options: Choices,
        norms: Sequence[Layer | None],
        *,
        default: str,
        without_tensors: str = "instance",
    ) -> None:
        self.statistics = "picture"
        self.norm = "none"
        present = [norm for norm in norms if norm is not None]
        if any("running_mean" in norm.tensors for norm in present):
            # Instance normalization with statistics has no weights in common networks.
            batch = any({"running_mean", "weight"} <= norm.tensors.keys() for norm in present)
            self.statistics = options.one_of(
                "statistics",
                "statistics of the normalizations (picture: of each image)",
                default if batch else "picture",
                ("picture", "running"),
            )
        if not present:
            self.norm = options.one_of(
                "norm", "normalization, which has no tensors", without_tensors, ("instance", "none")
            )
        # True if an output pixel depends on its neighborhood only.
        self.is_local = self.statistics == "running" or (not present and self.norm == "none")

    def build(self, layer: Layer | None, width: int) -> list[nn.Module]:
        """Return the normalization of `width` channels. `layer` is None if it has no tensors."""
        if layer is None:
            return [nn.InstanceNorm2d(width)] if self.norm == "instance" else []
        if self.statistics == "running" and "running_mean" in layer.tensors:
            norm = nn.BatchNorm2d(width, affine="weight" in layer.tensors)
            return [load_layer(norm, layer)]
        names = {name: name for name in ("weight", "bias") if name in layer.tensors}
        if not names:
            return [nn.InstanceNorm2d(width)]
        affine = Layer(layer.path, layer.tensors.select(names))
        return [load_layer(nn.InstanceNorm2d(width, affine=True), affine)]
