"""The encoder network: it corrects a latent from an image and its current reconstruction.

ReStyle (Alaluf et al. 2021, arXiv:2104.02699), in the size of small generators: every pass sees the
image, the reconstruction of the current latent, and the latent, and predicts a correction. As in
e4e (Tov et al. 2021, arXiv:2102.02766), a correction of styles is one vector for all layers, plus
an offset for each layer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.manifest import Manifest
from training.latent.generator import Latents

# Images larger than this are reduced first, because a correction of the latent needs no more.
_MAX_SIDE = 64
# Feature maps of at most this side have residual blocks; on larger ones they are too slow.
_RESIDUAL_SIDE = 8
_FINAL_SIDE = 4


class Encoder(nn.Module):
    """Maps ``image`` and ``reconstruction`` [N, H, W, C] uint8 and a latent to a new latent.

    The latent is ``w`` [N, layers, w_dim] or ``z`` [N, z_dim]. A model with classes and without
    styles also takes its class input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        manifest: Manifest,
        mean: Latents,
        deviation: Latents,
        width: int = 128,
        hidden: int = 256,
    ) -> None:
        """Build the network for a model whose latents have this mean and standard deviation.

        `width` is the number of channels of the feature maps, and `hidden` that of the last layer.
        """
        super().__init__()
        image = manifest.image_spec
        self.layers = len(manifest.styles.layers) if manifest.styles else 0
        self.dimension = manifest.latent_dimension
        self.classes = 0 if manifest.styles else len(manifest.classes)
        self.factor = max(1, -(-max(image.height, image.width) // _MAX_SIDE))
        sides = [-(-side // self.factor) for side in (image.height, image.width)]
        blocks: list[nn.Module] = []
        channels, following = 2 * image.channels, width // 2
        while max(sides) > _FINAL_SIDE or not blocks:
            stride = 2 if max(sides) > _FINAL_SIDE else 1
            blocks += [nn.Conv2d(channels, following, 3, stride, 1), nn.LeakyReLU(0.2)]
            sides = [-(-side // stride) for side in sides]
            if max(sides) <= _RESIDUAL_SIDE:
                blocks.append(_Residual(following))
            channels, following = following, width
        narrow = max(width // 2, 1)
        self.features = nn.Sequential(*blocks, nn.Conv2d(channels, narrow, 1), nn.LeakyReLU(0.2))
        inputs = narrow * sides[0] * sides[1] + self.dimension + self.classes
        self.hidden = nn.Linear(inputs, hidden)
        self.correction = nn.Linear(hidden, self.dimension)
        self.offsets = nn.Linear(hidden, self.layers * self.dimension) if self.layers else None
        self.register_buffer("mean", torch.from_numpy(mean.copy()))
        self.register_buffer("deviation", torch.from_numpy(deviation.copy()))
        with torch.no_grad():
            # The first corrections are small.
            for head in filter(None, (self.correction, self.offsets)):
                head.weight.mul_(0.1)
                nn.init.zeros_(head.bias)

    def forward(
        self,
        image: Tensor,
        reconstruction: Tensor,
        w: Tensor | None = None,
        z: Tensor | None = None,
        class_index: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> tuple[Tensor]:
        latent = w if w is not None else z
        assert latent is not None  # noqa: S101 - one of them is an input of the graph
        pair = torch.cat([image, reconstruction], 3).permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.factor > 1:
            pair = F.avg_pool2d(pair, self.factor, ceil_mode=True)
        # A sum of slices: ONNX Runtime adds up a reduction in another order for other batch sizes.
        one = sum(latent.unbind(1)) / self.layers if self.layers else latent
        values = [self.features(pair).flatten(1), (one - self.mean) / self.deviation]
        if class_index is not None:
            numbers = torch.arange(self.classes, device=class_index.device)
            values.append((class_index[:, None] == numbers).float())
        elif class_weights is not None:
            values.append(class_weights)
        hidden = F.leaky_relu(self.hidden(torch.cat(values, 1)), 0.2)
        correction = self.correction(hidden)
        if self.offsets is not None:
            offsets = self.offsets(hidden).reshape(-1, self.layers, self.dimension)
            correction = correction[:, None] + offsets
        return (latent + correction * self.deviation,)


class _Residual(nn.Module):
    """Adds two convolutions, with half of the channels between them; at first they add nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels // 2, 3, 1, 1)
        self.second = nn.Conv2d(channels // 2, channels, 3, 1, 1)
        nn.init.zeros_(self.second.weight)
        if self.second.bias is not None:
            nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(F.leaky_relu(self.first(x), 0.2))
        return F.leaky_relu(x + inner, 0.2)


def start_latent(manifest: Manifest, mean: Latents) -> Latents:
    """Return the latent of the first pass without a batch axis: the mean, for every layer."""
    if manifest.styles is None:
        return mean
    return np.repeat(mean[None], len(manifest.styles.layers), 0)
