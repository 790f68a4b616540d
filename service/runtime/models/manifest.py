"""The manifest of a model folder.

    models/<name>/<version>/
        model.json      the manifest
        *.onnx          the graphs: `generator`, or `mapping` and `synthesis`, or another main graph
        *.onnx.data     weights of a graph that is too large for one file
        golden.png      outputs that the model must reproduce; golden.npy for audio
        preview.webp    a sample grid
        README.md       the model card
        directions.npz  vectors of named directions in latent space
        vocabulary.json tokens of a text model; tokenizer.json of a text encoder

Training writes the manifest and the service reads it; they share nothing else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from service.runtime.errors import UserError
from service.runtime.files import open_regular
from service.runtime.models.parts.additions import Directions, Discriminator, Encoder, Trainable
from service.runtime.models.parts.graphs import (
    ADDED_ROLES,
    CLASS_INDEX,
    CLASS_WEIGHTS,
    DISCRIMINATOR,
    ENCODER,
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    Graph,
    encoder_output,
)
from service.runtime.models.parts.inputs import ImageInput, TextInput
from service.runtime.models.parts.latent import LatentSpace, StyleSpace
from service.runtime.models.parts.measurements import Golden, Quality
from service.runtime.models.parts.outputs import (
    AudioSpec,
    ImageSpec,
    OutputSpec,
    TextEncoder,
    TextSpec,
)
from service.runtime.models.parts.part import Part, Slug
from service.runtime.models.parts.provenance import ImportProvenance, TrainingProvenance
from service.runtime.models.parts.tasks import (
    ADDED_OUTPUTS,
    LATENT_TASKS,
    OUTPUT_PARTS,
    TOKEN_GRAPHS,
    Task,
    output_part,
)

MANIFEST_FILE = "model.json"
PREVIEW_FILE = "preview.webp"
# Enough for 10,000 classes with names of the maximum length in UTF-8, escaped.
_MAX_MANIFEST_BYTES = 32 * 2**20
# Class names are part of headers, metadata and paths in archives.
ClassName = Annotated[str, StringConstraints(max_length=200)]


class ManifestError(UserError):
    """A manifest cannot be read or is invalid."""


class Manifest(Part):
    """Describes a model: inputs, outputs, provenance and measured quality."""

    schema_version: Literal[1] = 1
    name: Slug
    version: Slug
    task: Task
    summary: str
    # What the model is useful for, as the end of a sentence.
    good_for: str | None = None
    graphs: dict[str, Graph] = Field(min_length=1)
    # Exactly one of them, which fits the task: what the model returns.
    image: ImageSpec | None = None
    audio: AudioSpec | None = None
    text: TextSpec | None = None
    text_encoder: TextEncoder | None = None
    latent: LatentSpace | None = None
    text_input: TextInput | None = None
    input: ImageInput | None = None
    classes: tuple[ClassName, ...] = ()
    styles: StyleSpace | None = None
    provenance: Annotated[TrainingProvenance | ImportProvenance, Field(discriminator="kind")]
    quality: tuple[Quality, ...] = ()
    golden: tuple[Golden, ...] = Field(default=(), max_length=64)
    directions: Directions | None = None
    encoder: Encoder | None = None
    discriminator: Discriminator | None = None
    trainable: Trainable | None = None
    license: str

    @model_validator(mode="after")
    def _fits_its_task(self) -> Manifest:
        part = output_part(self.task)
        given = [name for name in OUTPUT_PARTS if getattr(self, name) is not None]
        if given != [part]:
            raise ValueError(
                f"a model with the task {self.task} needs {part}, got {', '.join(given) or 'none'}"
            )
        if (self.text_input is not None) != (self.task == "text-to-image"):
            raise ValueError("text_input is required if and only if the task is text-to-image")
        if self.task in LATENT_TASKS:
            if self.latent is None:
                raise ValueError(f"a model with the task {self.task} needs a latent space")
            self._check_graphs(self.latent)
            for golden in self.golden:
                self._check_golden(golden, self.latent)
        elif self.task in TOKEN_GRAPHS:
            self._check_token_graph(*TOKEN_GRAPHS[self.task])
        elif self.input is None:
            raise ValueError(f"a model with the task {self.task} needs an input")
        else:
            self._check_image_to_image(self.input, self.image_spec)
        return self

    def _check_token_graph(self, role: str, inputs: set[str], outputs: set[str]) -> None:
        """Raise ValueError unless the only graph takes `inputs` and returns `outputs`."""
        if set(self.graphs) != {role}:
            raise ValueError(
                f"a model with the task {self.task} needs a graph {role!r}; "
                f"got {', '.join(sorted(self.graphs))}"
            )
        graph = self.graphs[role]
        if set(graph.inputs) != inputs or set(graph.outputs) != outputs:
            raise ValueError(
                f"{graph.file} must take {' and '.join(sorted(inputs))}, "
                f"and return {' and '.join(sorted(outputs))}"
            )
        if self.latent or self.input or self.classes:
            raise ValueError(f"latent, input and classes are not allowed for the task {self.task}")
        self._check_no_additions()
        if self.task == "text-encoder" and self.golden:
            raise ValueError("golden is not allowed for the task text-encoder")
        if self.text is not None and max(self.text.start, self.text.end) >= self.text.size:
            raise ValueError(f"text.start and text.end must be less than {self.text.size}")

    def _check_no_additions(self) -> None:
        if self.styles or self.directions or self.encoder or self.discriminator:
            raise ValueError(
                "styles, directions, encoder and discriminator are not allowed for the task "
                f"{self.task}"
            )

    def _check_image_to_image(self, spec: ImageInput, image: ImageSpec) -> None:
        """Raise ValueError unless the graphs lead from images to pixels."""
        if set(self.graphs) != set(spec.roles):
            raise ValueError(
                f"expected the graphs {', '.join(spec.roles)}, got {', '.join(sorted(self.graphs))}"
            )
        inputs = {"image", "mask"} if spec.masked else {"image"}
        for graph in self.graphs.values():
            if set(graph.inputs) != inputs or "pixels" not in graph.outputs:
                names = " and ".join(sorted(inputs))
                raise ValueError(f"{graph.file} must take {names} and return pixels")
        if spec.masked != (self.task == "inpaint"):
            raise ValueError("input.masked is required if and only if the task is inpaint")
        height, width = (side * spec.factor for side in spec.size)
        if (image.height, image.width) != (height, width):
            raise ValueError(f"image must be {width}×{height}, the size that follows from input")
        if self.latent or self.classes or self.styles:
            raise ValueError(f"latent, classes and styles are not allowed for the task {self.task}")
        if self.directions or self.encoder or self.discriminator:
            raise ValueError(
                f"directions, encoder and discriminator are not allowed for the task {self.task}"
            )
        for golden in self.golden:
            if (golden.direction or GENERATOR) not in spec.roles:
                raise ValueError(f"golden.direction: unknown direction {golden.direction}")

    def _check_golden(self, golden: Golden, latent: LatentSpace) -> None:
        """Raise ValueError unless the model can generate the golden image."""
        if (golden.class_index is not None) != bool(self.classes):
            raise ValueError("golden.class_index is required if and only if the model has classes")
        if golden.class_index is not None and golden.class_index >= len(self.classes):
            raise ValueError(f"golden.class_index {golden.class_index} is out of range")
        if (golden.truncation is not None) != (latent.truncation is not None):
            raise ValueError(
                "golden.truncation is required if and only if latent.truncation is present"
            )

    def _check_graphs(self, latent: LatentSpace) -> None:
        """Raise ValueError unless the graphs lead from latents to the output."""
        if self.task != "generate":
            self._check_no_additions()
        if self.input is not None:
            raise ValueError(f"input is not allowed for the task {self.task}")
        roles = set(self.graphs) - set(ADDED_ROLES)
        if roles not in ({GENERATOR}, {MAPPING, SYNTHESIS}):
            raise ValueError(
                f"a model with the task {self.task} needs a graph {GENERATOR!r}, or {MAPPING!r} "
                f"and {SYNTHESIS!r}; got {', '.join(sorted(roles))}"
            )
        has_styles = MAPPING in roles
        if has_styles != (self.styles is not None):
            raise ValueError(
                f"styles is required if and only if there are graphs {MAPPING!r} and {SYNTHESIS!r}"
            )
        first = self.graphs[MAPPING if has_styles else GENERATOR]
        last = self.graphs[SYNTHESIS if has_styles else GENERATOR]
        if bool(self.classes) != bool({CLASS_INDEX, CLASS_WEIGHTS} & set(first.inputs)):
            raise ValueError(
                f"classes is required if and only if {first.file} takes {CLASS_WEIGHTS} or "
                f"{CLASS_INDEX}"
            )
        if (latent.truncation is not None) != ("truncation" in first.inputs):
            raise ValueError(
                f"latent.truncation is required if and only if {first.file} takes truncation"
            )
        tensor = self.output.tensor
        if "z" not in first.inputs or tensor not in last.outputs:
            raise ValueError(f"{first.file} must take z, and {last.file} must return {tensor}")
        if (self.text_input is not None) != ("text" in first.inputs):
            raise ValueError(f"text_input is required if and only if {first.file} takes text")
        if has_styles and ("w" not in first.outputs or set(last.inputs) - {TRANSFORM} != {"w"}):
            raise ValueError(
                f"{first.file} must return w, and {last.file} must take w, "
                f"alone or with {TRANSFORM}"
            )
        self._check_additions(first.inputs)

    def _check_additions(self, first_inputs: tuple[str, ...]) -> None:
        """Raise ValueError unless directions, encoder and discriminator fit the generator."""
        for role, addition in ((ENCODER, self.encoder), (DISCRIMINATOR, self.discriminator)):
            if (role in self.graphs) != (addition is not None):
                raise ValueError(f"{role} is required if and only if there is a graph {role!r}")
        class_inputs = {CLASS_INDEX, CLASS_WEIGHTS} & set(first_inputs)
        space = "w" if self.styles else "z"
        # A style vector w already depends on the class.
        encoder_inputs = {"image", "reconstruction", space} | (
            set() if self.styles else class_inputs
        )
        expected = {
            ENCODER: (encoder_inputs, encoder_output(space)),
            DISCRIMINATOR: ({"image"} | class_inputs, "score"),
        }
        for role, (inputs, output) in expected.items():
            graph = self.graphs.get(role)
            if graph and (set(graph.inputs) != inputs or output not in graph.outputs):
                names = ", ".join(sorted(inputs))
                raise ValueError(f"{graph.file} must take {names}, and return {output}")
        layers = len(self.styles.layers) if self.styles else 0
        for direction in self.directions.items if self.directions else ():
            if direction.space == "w" and max(direction.layers) >= layers:
                raise ValueError(
                    f"directions.{direction.name}: the model has {layers} style layers"
                )

    @property
    def output(self) -> OutputSpec:
        """The part that describes what the main graph returns."""
        part: OutputSpec = getattr(self, output_part(self.task))
        return part

    @property
    def image_spec(self) -> ImageSpec:
        """The output images. Raises ValueError if the model has another kind of output."""
        if self.image is None:
            raise ValueError(f"{self.name} returns no images, but {self.output.tensor}")
        return self.image

    @property
    def token_files(self) -> tuple[tuple[str, str], ...]:
        """The vocabulary or the tokenizer, if the model has one, with its SHA-256."""
        parts = (
            self.text and self.text.vocabulary,
            self.text_encoder and self.text_encoder.tokenizer,
        )
        return tuple((part.file, part.sha256) for part in parts if part)

    @property
    def main_role(self) -> str:
        """The role that returns the output: `generator`, or the graph of a text model."""
        return TOKEN_GRAPHS[self.task][0] if self.task in TOKEN_GRAPHS else GENERATOR

    @property
    def added_roles(self) -> tuple[str, ...]:
        """The roles that do not lead to images: `encoder` and `discriminator`, if present."""
        return tuple(role for role in ADDED_ROLES if role in self.graphs)

    @property
    def latent_space_name(self) -> Literal["w", "z"]:
        """The space in which images are inverted and moved along directions: w with styles."""
        return "w" if self.styles else "z"

    @property
    def latent_dimension(self) -> int:
        """The dimension of a vector in that space. Raises ValueError without a latent space."""
        if self.styles is not None:
            return self.styles.dimension
        if self.latent is None:
            raise ValueError(f"{self.name} has no latent space")
        return self.latent.dimension

    @property
    def takes_transform(self) -> bool:
        """Whether a request can translate and rotate the images."""
        return SYNTHESIS in self.graphs and TRANSFORM in self.graphs[SYNTHESIS].inputs

    @property
    def digest(self) -> str:
        """The digest `sha256:…` of the parts of a model that determine its images.

        Changes to the texts, to measured metrics, or to the additions, such as an encoder, do not
        change the digest.
        """
        graphs = {
            role: graph for role, graph in self.graphs.items() if role not in self.added_roles
        }
        dependencies = {
            "graphs": {role: graph.sha256 for role, graph in graphs.items()},
            "latent": self.latent.model_dump(mode="json") if self.latent else None,
            "classes": self.classes,
            "styles": self.styles.model_dump(mode="json") if self.styles else None,
        }
        if self.input is not None:
            spec = self.input.model_dump(mode="json")
            for added in ("least", "width"):  # Added later: models without it keep their digest.
                if spec[added] is None:
                    del spec[added]
            dependencies["input"] = spec
        # Absent in the manifests of images, which keep their digest.
        for name in (*ADDED_OUTPUTS.values(), "text_input"):
            if (described := getattr(self, name)) is not None:
                dependencies[name] = described.model_dump(mode="json")
        if weights := dict(each for graph in graphs.values() for each in graph.files[1:]):
            dependencies["data"] = weights
        text = json.dumps(dependencies, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the manifest as JSON, without absent parts."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model folder. Raises ManifestError."""
    path = folder / MANIFEST_FILE
    try:
        with open_regular(path) as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise ManifestError(f"{path} is larger than {_MAX_MANIFEST_BYTES:,} bytes")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(f"{path} is not a valid manifest: {where}: {first['msg']}") from error


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
