"""The graphs of a model: their files, and the names of roles, inputs and outputs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from service.runtime.models.parts.part import SHA256, Part

# Roles of graphs. A model with the task `generate` has one graph from latents to pixels, or two
# that are connected by the styles `w`. An image-to-image model has a `generator`, or one graph per
# direction, named after the direction.
GENERATOR = "generator"
MAPPING = "mapping"
SYNTHESIS = "synthesis"
# The graph of a text model, and that of a text encoder.
STEP = "step"
TEXT_ENCODER = "text_encoder"
# Optional roles beside those. They do not change the images of a seed, so the digest of a model
# does not depend on them.
ENCODER = "encoder"
DISCRIMINATOR = "discriminator"
ADDED_ROLES = (ENCODER, DISCRIMINATOR)
# Class inputs of a graph: the weights of all classes [N, classes] float32, which can be blended, or
# the class index [N] int64.
CLASS_WEIGHTS = "class_weights"
CLASS_INDEX = "class_index"
# Optional input of a `synthesis` graph, [N, 3, 3] float32: translates and rotates the images.
TRANSFORM = "transform"

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$")]
DataName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx\.data$")]


class DataFile(Part):
    """A file with weights of a graph: an ONNX file is limited to 2 GiB."""

    file: DataName
    sha256: SHA256


class Graph(Part):
    """An ONNX file whose inputs and outputs have the names of the contract.

    `data` lists the files with external weights, if any.
    """

    file: FileName
    sha256: SHA256
    inputs: tuple[str, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)
    data: Annotated[tuple[DataFile, ...], Field(min_length=1)] | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """All files of the graph, with their SHA-256."""
        return (self.file, self.sha256), *((data.file, data.sha256) for data in self.data or ())


def encoder_output(space: str) -> str:
    """Return the name of the encoder's output: ONNX allows each name once in a graph."""
    return f"new_{space}"
