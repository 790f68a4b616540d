"""Synthetic inputs to run an imported graph with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.runtime.latent import seeds as latents
from service.runtime.latent.seeds import Distribution
from service.runtime.models.parts.graphs import CLASS_INDEX
from service.runtime.models.probe_inputs import probe_images, probe_masks
from service.runtime.onnx.sessions import Array
from training.importers.onnx.wrapping import GraphInterface


@dataclass(frozen=True)
class Probe:
    """Creates synthetic inputs for a graph."""

    interface: GraphInterface
    distribution: Distribution

    def feeds(self, count: int, height: int, width: int) -> dict[str, Array]:
        """Return `count` rows of every input; images have the size `height` × `width`."""
        rows, classes = self.interface.rows, self.interface.classes
        seeds = range(count)
        feeds: dict[str, Array] = {}
        for name in self.interface.inputs:
            if name == "z":
                feeds[name] = latents.draw(seeds, rows["z"][0] or 1, self.distribution)
            elif name == "image":
                feeds[name] = probe_images(seeds, (height, width), rows["image"][2] or 1)
            elif name == "mask":
                feeds[name] = probe_masks(seeds, (height, width))
            elif name == "truncation":
                feeds[name] = np.linspace(0.5, 1, count, dtype=np.float32)
            elif name == CLASS_INDEX:
                feeds[name] = np.arange(count) % classes
            else:
                feeds[name] = np.zeros((count, classes), np.float32)
                feeds[name][np.arange(count), np.arange(count) % classes] = 1
        return feeds
