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
from service.runtime.formatting import exact
from service.runtime.latent.seeds import MAX_SEED, Distribution
from service.runtime.models.manifest_outputs import (
    AudioSpec,
    ImageSpec,
    OutputSpec,
    TextEncoder,
    TextInput,
    TextSpec,
)
from service.runtime.models.manifest_parts import (
    SHA256,
    Directions,
    Discriminator,
    Encoder,
    Finite,
    Part,
    Positive,
    Slug,
    Trainable,
)
from service.runtime.models.provenance import ImportProvenance, TrainingProvenance

MANIFEST_FILE = "model.json"
PREVIEW_FILE = "preview.webp"
# Enough for 10,000 classes with names of the maximum length in UTF-8, escaped.
_MAX_MANIFEST_BYTES = 32 * 2**20
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
# Class names are part of headers, metadata and paths in archives.
ClassName = Annotated[str, StringConstraints(max_length=200)]
StyleGroup = Literal["coarse", "middle", "fine"]

# The route that serves a model has the name of its task.
Task = Literal[
    "generate",
    "translate",
    "colorize",
    "upscale",
    "inpaint",
    "audio",
    "text-to-image",
    "text",
    "text-encoder",
]
# Tasks whose models draw their outputs from a latent `z`.
LATENT_TASKS: tuple[Task, ...] = ("generate", "audio", "text-to-image")
# The part of the manifest that describes the output of a task; all others have images.
_OUTPUTS: dict[Task, str] = {"audio": "audio", "text": "text", "text-encoder": "text_encoder"}
OUTPUT_PARTS = ("image", *_OUTPUTS.values())
# Inputs and outputs of the graphs of the tasks that have neither latents nor images.
_TOKEN_GRAPHS: dict[Task, tuple[str, set[str], set[str]]] = {
    "text": (STEP, {"token", "state"}, {"logits", "new_state"}),
    "text-encoder": (TEXT_ENCODER, {"token_ids", "token_mask"}, {"text"}),
}


class ManifestError(UserError):
    """A manifest cannot be read or is invalid."""


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


class Truncation(Part):
    """The range of the truncation ψ (StyleGAN, arXiv:1812.04948, appendix B); 1 disables it."""

    default: Finite = 1.0
    minimum: Finite = 0.0
    maximum: Finite = 1.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Truncation:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(
                f"{exact(self.default)} is not in {exact(self.minimum)} to {exact(self.maximum)}"
            )
        return self


class LatentSpace(Part):
    """The latent space of `z`; `seed_rule` defines how a latent is drawn from a seed.

    With a `truncation`, the graph that takes `z` also takes the truncation.
    """

    dimension: Positive
    distribution: Distribution = "normal"
    seed_rule: Literal["numpy-randomstate"] = "numpy-randomstate"
    truncation: Truncation | None = None


class StyleLayer(Part):
    """A layer that takes a style, with its resolution in pixels and its group."""

    resolution: Positive
    group: StyleGroup


class StyleSpace(Part):
    """The style space of `w`: one vector of `dimension` per layer."""

    dimension: Positive
    layers: tuple[StyleLayer, ...] = Field(min_length=1)

    @property
    def groups(self) -> dict[StyleGroup, tuple[int, ...]]:
        """The layer indices by group; groups without layers are missing."""
        groups: dict[StyleGroup, tuple[int, ...]] = {}
        for i, layer in enumerate(self.layers):
            groups[layer.group] = (*groups.get(layer.group, ()), i)
        return groups


class ImageInput(Part):
    """The input images of an image-to-image model, `image` ``[N, H, W, C] uint8``.

    If the size may vary, both sides must be multiples of `multiple`; the sides of the output are
    `factor` times as long. A `masked` graph also takes ``mask`` ``[N, H, W] uint8``: 255 marks
    pixels to fill, 0 known pixels.
    """

    channels: Literal[1, 3, 4]
    # The side of the training images in pixels; with `fixed` the only one that the graph takes:
    # an upscaler then runs in tiles of this size, and other models resize their input to it.
    side: Positive
    fixed: bool = False
    # The width of a `fixed` input that is not square; `side` is its height.
    width: Positive | None = None
    multiple: Positive = 1
    # The minimum side, if it is larger than `multiple`: padding by reflection needs enough pixels
    # to reflect.
    least: Positive | None = None
    factor: Positive = 1
    # The radius of the receptive field in input pixels; None if every pixel depends on all others.
    reach: Annotated[int, Field(ge=0)] | None = None
    masked: bool = False
    # The directions of a model that has several, the default first.
    directions: tuple[Slug, ...] = ()

    @model_validator(mode="after")
    def _side_fits(self) -> ImageInput:
        if self.side % self.multiple:
            raise ValueError(f"side {self.side} is not a multiple of {self.multiple}")
        if self.least is not None and (self.least % self.multiple or self.least > self.side):
            raise ValueError(
                f"least {self.least} is not a multiple of {self.multiple}, or exceeds side"
            )
        if self.width is not None and (not self.fixed or self.width % self.multiple):
            raise ValueError(f"width {self.width} needs fixed and a multiple of {self.multiple}")
        if len(self.directions) == 1 or len(set(self.directions)) != len(self.directions):
            raise ValueError("directions must be at least two different names")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the training images; with `fixed` the only supported ones."""
        return self.side, self.width or self.side

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the graphs."""
        return self.directions or (GENERATOR,)


class Quality(Part):
    """A measured metric with everything that is needed to interpret it."""

    metric: str
    value: Finite
    feature_network: str | None = None
    reference: str
    # SHA-256 of the decoded images of the reference split.
    reference_sha256: SHA256 | None = None
    samples: Positive
    reference_samples: Positive
    # The rule that chose the reference images, if they are a part of the split by default.
    reference_choice: str | None = None
    # The 95 % confidence interval, if the metric has one.
    low: Finite | None = None
    high: Finite | None = None
    # The same metric for `real_samples` real images instead of generated ones.
    real: Finite | None = None
    real_samples: Positive | None = None
    # The same metric for a simple baseline instead of the model, and its name.
    baseline: Finite | None = None
    baseline_name: str | None = None
    # How images were resized for the feature network.
    resizing: str | None = None
    truncation: Finite | None = None
    # The samples have consecutive seeds, starting here.
    seed_start: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    # Further information for the interpretation.
    note: str | None = None


class Golden(Part):
    """An output of the model at export: its inputs and a SHA-256.

    The digest is that of the pixels, of the int16 samples, or of the UTF-8 text at temperature 1.
    `class_index`, `truncation` and `direction` are set if the model has them.
    """

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    class_index: Annotated[int, Field(ge=0)] | None = None
    truncation: Finite | None = None
    direction: Slug | None = None
    sha256: SHA256


class Manifest(Part):
    """Describes a model: inputs, outputs, provenance and measured quality."""

    schema_version: Literal[1] = 1
    name: Slug
    version: Slug
    task: Task
    summary: str
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
        part = _OUTPUTS.get(self.task, "image")
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
        elif self.task in _TOKEN_GRAPHS:
            self._check_token_graph(*_TOKEN_GRAPHS[self.task])
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
        part: OutputSpec = getattr(self, _OUTPUTS.get(self.task, "image"))
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
        return _TOKEN_GRAPHS[self.task][0] if self.task in _TOKEN_GRAPHS else GENERATOR

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

        Changes to the summary, to measured metrics, or to the additions, such as an encoder, do not
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
        for name in (*_OUTPUTS.values(), "text_input"):
            if (described := getattr(self, name)) is not None:
                dependencies[name] = described.model_dump(mode="json")
        if weights := dict(each for graph in graphs.values() for each in graph.files[1:]):
            dependencies["data"] = weights
        text = json.dumps(dependencies, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the manifest as JSON, without absent parts."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def encoder_output(space: str) -> str:
    """Return the name of the encoder's output: ONNX allows each name once in a graph."""
    return f"new_{space}"


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
