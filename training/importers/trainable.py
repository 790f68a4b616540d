"""The PyTorch weights of an imported generator, from which training can continue."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import GENERATOR
from training.export.graphs import (
    GraphSpec,
    ServedGenerator,
    ServedImageToImage,
    ServedMapping,
    ServedSynthesis,
)
from training.fine_tuning.trainable import write_trainable
from training.importers.errors import ImportOptionError
from training.importers.formats.base import ConvertedModel

_DESCRIPTION = (
    "The generator of the imported file, as Ganymede rebuilds it: names and scales of tensors are "
    "those of its networks. The discriminator, if the file contains one, is not kept"
)


def trainable_state(converted: ConvertedModel) -> dict[str, Tensor]:
    """Return copies of the generator's tensors, by the names that a recipe's generator has.

    StyleGAN2 and 3 and BigGAN are rebuilt from Ganymede's own networks, so that a recipe of the
    same shapes takes their tensors. Other formats keep names of their own; fine-tuning takes those
    that fit by name and shape, and lists the others. Raises ImportOptionError for an ONNX graph.
    """
    if converted.onnx_graphs is not None:
        raise ImportOptionError("--trainable: a graph has no weights that training continues from")
    state: dict[str, Tensor] = {}
    for spec in converted.graph_specs:
        prefix, network = _network(spec)
        # Copies, because the export may fold layers into others.
        state |= {prefix + name: tensor.clone() for name, tensor in network.state_dict().items()}
    return state


def _network(spec: GraphSpec) -> tuple[str, nn.Module]:
    """Return the network of a graph, and the prefix of its tensors in the whole generator."""
    module = spec.module
    if isinstance(module, ServedMapping):
        return "mapping.", module.mapping
    if isinstance(module, ServedSynthesis):
        return "synthesis.", module.synthesis
    assert isinstance(module, ServedGenerator | ServedImageToImage)  # noqa: S101 - all that is left
    return "" if spec.role == GENERATOR else f"{spec.role}.", module.generator


def add_trainable(state: dict[str, Tensor], folder: Path, manifest: Manifest) -> Manifest:
    """Write the tensors into a model folder, and return its manifest with them."""
    weights = write_trainable(folder, {"average": state}, description=_DESCRIPTION)
    return manifest.model_copy(update={"trainable": weights})
