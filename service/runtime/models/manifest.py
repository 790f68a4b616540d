"""The manifest: what a model folder says about itself.

    models/<name>/<version>/
        model.json      the manifest
        *.onnx          the graphs: `generator`, or `mapping` and `synthesis`
        *.onnx.data     weights of a graph that is too large for one file
        golden.png      pictures that the model has to make again where it serves
        preview.webp    a sample grid
        README.md       the model card

Training writes it, the service reads it, and they share nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.runtime.errors import UserError
from service.runtime.latent.seeds import MAX_SEED, Distribution

MANIFEST_FILE = "model.json"
# The roles of graphs. A model whose task is `generate` has one that makes pictures of latents, or
# two that meet in the styles `w`. One that makes pictures of pictures has the same one role, or one
# for each of its directions, which is then called like it.
GENERATOR = "generator"
MAPPING = "mapping"
SYNTHESIS = "synthesis"
# How a graph takes the class: the weights of all of them [N, classes] float32, so that it blends
# them; or its index [N] int64.
CLASS_WEIGHTS = "class_weights"
CLASS_INDEX = "class_index"
# What a `synthesis` may take beside w, [N, 3, 3] float32: how its pictures are moved and turned.
TRANSFORM = "transform"

# A name or a version is a path component, and stands in URLs: lower case, no separators.
SLUG = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
Slug = Annotated[str, StringConstraints(pattern=SLUG.pattern)]
SHA256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$")]
DataName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx\.data$")]
Positive = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
StyleGroup = Literal["coarse", "middle", "fine"]

# The route that serves the model is named like its task.
Task = Literal["generate", "translate", "colorize", "upscale", "inpaint"]


class ManifestError(UserError):
    """A manifest cannot be read, or is not one."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(_Part):
    """Weights beside a graph: an ONNX file can hold no more than 2 GiB."""

    file: DataName
    sha256: SHA256


class Graph(_Part):
    """One ONNX file: its inputs and outputs carry the names of the contract.

    `data` are the files that it takes weights from, where there are any.
    """

    file: FileName
    sha256: SHA256
    inputs: tuple[str, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)
    data: Annotated[tuple[DataFile, ...], Field(min_length=1)] | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """All that it is read from, with the SHA-256 of each."""
        return (self.file, self.sha256), *((data.file, data.sha256) for data in self.data or ())


class Truncation(_Part):
    """How far pictures are drawn towards the average one: 1 is not at all."""

    default: Finite = 1.0
    minimum: Finite = 0.0
    maximum: Finite = 1.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Truncation:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"{self.default:g} is not in {self.minimum:g} to {self.maximum:g}")
        return self


class LatentSpace(_Part):
    """What `z` is: `seed_rule` says how a seed becomes one row of it.

    Where there is a `truncation`, the graph that takes `z` takes that too.
    """

    dimension: Positive
    distribution: Distribution = "normal"
    seed_rule: Literal["numpy-randomstate"] = "numpy-randomstate"
    truncation: Truncation | None = None


class StyleLayer(_Part):
    """One layer that takes a style: the resolution at which it acts, and its group."""

    resolution: Positive
    group: StyleGroup


class StyleSpace(_Part):
    """What `w` is: one row of `dimension` for each layer."""

    dimension: Positive
    layers: tuple[StyleLayer, ...] = Field(min_length=1)

    @property
    def groups(self) -> dict[StyleGroup, tuple[int, ...]]:
        """The layers by group, as indices; a group without layers is not there."""
        groups: dict[StyleGroup, tuple[int, ...]] = {}
        for i, layer in enumerate(self.layers):
            groups[layer.group] = (*groups.get(layer.group, ()), i)
        return groups


class ImageSpec(_Part):
    """The pictures that come out, in pixels. 1 channel is grey, 3 RGB, 4 RGBA."""

    height: Positive
    width: Positive
    channels: Literal[1, 3, 4]

    @property
    def pixels(self) -> int:
        """Pixels in one picture."""
        return self.height * self.width


class ImageInput(_Part):
    """The pictures that go in, `image` ``[N, H, W, C] uint8``.

    Where the sides may vary, they have to be multiples of `multiple`; those that come out are
    `factor` times as long. A `masked` graph takes ``mask`` ``[N, H, W] uint8`` beside them: 255 is
    to be filled, 0 is known.
    """

    channels: Literal[1, 3, 4]
    # The side of the pictures that it was trained on, in pixels; the only one where it is `fixed`.
    side: Positive
    fixed: bool = False
    multiple: Positive = 1
    # The shortest side that goes in, where it is more than one multiple: what is padded by
    # reflection needs something to reflect.
    least: Positive | None = None
    factor: Positive = 1
    # How far a pixel may be from those that it has a part in, in pixels of the input. Not there
    # where all of a picture has a part in all of it.
    reach: Annotated[int, Field(ge=0)] | None = None
    masked: bool = False
    # The ways in which it can be run, the usual one first, where there is more than one.
    directions: tuple[Slug, ...] = ()

    @model_validator(mode="after")
    def _side_fits(self) -> ImageInput:
        if self.side % self.multiple:
            raise ValueError(f"side {self.side} is no multiple of {self.multiple}")
        if self.least is not None and (self.least % self.multiple or self.least > self.side):
            raise ValueError(
                f"least {self.least} is no multiple of {self.multiple}, or more than the side"
            )
        if len(self.directions) == 1 or len(set(self.directions)) != len(self.directions):
            raise ValueError("directions are several, each with a name of its own")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """The graphs that there are."""
        return self.directions or (GENERATOR,)


class TrainingProvenance(_Part):
    """Where a model trained by Ganymede comes from."""

    kind: Literal["training"] = "training"
    recipe: str
    dataset: str
    dataset_license: str
    # Real pictures shown, optimiser turns, and seconds spent, on which device.
    images: Positive
    turns: Positive
    seconds: float
    device: str
    seed: int
    # The commit of Ganymede that trained it, where it was a checkout; else its version.
    code_revision: str


class ImportProvenance(_Part):
    """Where a model made elsewhere comes from."""

    kind: Literal["import"] = "import"
    format: str
    source_file: str
    source_sha256: SHA256
    importer_version: str


class Quality(_Part):
    """One measured figure, with all that is needed to read it."""

    metric: str
    value: Finite
    feature_network: str | None = None
    reference: str
    # Of the decoded pictures of the split.
    reference_sha256: SHA256 | None = None
    samples: Positive
    reference_samples: Positive
    # The 95% confidence interval, where the figure has one.
    low: Finite | None = None
    high: Finite | None = None
    # The same figure of so many real pictures in place of the generated ones.
    real: Finite | None = None
    real_samples: Positive | None = None
    # The same figure of something simpler in place of the model, and what that is.
    baseline: Finite | None = None
    baseline_name: str | None = None
    # How pictures were brought to the size of the feature network.
    resizing: str | None = None
    truncation: Finite | None = None
    # Samples are those of the seeds from here on, one after another.
    seed_start: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    # What else it takes to read the figure.
    note: str | None = None


class Golden(_Part):
    """A picture that the model made when it was exported: what of, and the SHA-256 of its pixels.

    Where the model has classes there is a `class_index`, where it truncates a `truncation`, and
    where it has directions a `direction`.
    """

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    class_index: Annotated[int, Field(ge=0)] | None = None
    truncation: Finite | None = None
    direction: Slug | None = None
    sha256: SHA256


class Manifest(_Part):
    """What the model is, what goes in, what comes out, where it comes from."""

    schema_version: Literal[1] = 1
    name: Slug
    version: Slug
    task: Task
    summary: str
    graphs: dict[str, Graph] = Field(min_length=1)
    image: ImageSpec
    latent: LatentSpace | None = None
    input: ImageInput | None = None
    classes: tuple[str, ...] = ()
    styles: StyleSpace | None = None
    provenance: Annotated[TrainingProvenance | ImportProvenance, Field(discriminator="kind")]
    quality: tuple[Quality, ...] = ()
    golden: tuple[Golden, ...] = Field(default=(), max_length=64)
    license: str

    @model_validator(mode="after")
    def _fits_its_task(self) -> Manifest:
        if self.task == "generate":
            if self.latent is None:
                raise ValueError("a model that generates needs a latent space")
            self._check_graphs(self.latent)
            for golden in self.golden:
                self._check_golden(golden, self.latent)
            return self
        if self.input is None:
            raise ValueError(f"a model whose task is {self.task} needs an input")
        self._check_translators(self.input)
        return self

    def _check_translators(self, given: ImageInput) -> None:
        """Raise ValueError unless the graphs lead from pictures to pixels."""
        if set(self.graphs) != set(given.roles):
            raise ValueError(
                f"expected the graphs {', '.join(given.roles)}, "
                f"got {', '.join(sorted(self.graphs))}"
            )
        wanted = {"image", "mask"} if given.masked else {"image"}
        for graph in self.graphs.values():
            if set(graph.inputs) != wanted or "pixels" not in graph.outputs:
                takes = " and ".join(sorted(wanted))
                raise ValueError(f"{graph.file} has to take {takes}, and to give pixels")
        if given.masked != (self.task == "inpaint"):
            raise ValueError("masked inputs and the task inpaint go together")
        made = given.side * given.factor
        if (self.image.height, self.image.width) != (made, made):
            raise ValueError(f"image has to be {made}×{made}, as input makes it")
        if self.latent or self.classes or self.styles:
            raise ValueError(f"latent, classes and styles do not go with the task {self.task}")
        for golden in self.golden:
            if (golden.direction or GENERATOR) not in given.roles:
                raise ValueError(f"golden.direction: there is no direction {golden.direction}")

    def _check_golden(self, golden: Golden, latent: LatentSpace) -> None:
        """Raise ValueError unless the picture is one that the model can make."""
        if (golden.class_index is not None) != bool(self.classes):
            raise ValueError("golden.class_index goes together with classes")
        if golden.class_index is not None and golden.class_index >= len(self.classes):
            raise ValueError(f"golden.class_index {golden.class_index} is no class")
        if (golden.truncation is not None) != (latent.truncation is not None):
            raise ValueError("golden.truncation goes together with latent.truncation")

    def _check_graphs(self, latent: LatentSpace) -> None:
        """Raise ValueError unless the graphs lead from latents to pixels."""
        roles = set(self.graphs)
        if roles not in ({GENERATOR}, {MAPPING, SYNTHESIS}):
            raise ValueError(
                f"a model that generates needs a graph {GENERATOR!r}, or {MAPPING!r} and "
                f"{SYNTHESIS!r}; got {', '.join(sorted(roles))}"
            )
        has_styles = MAPPING in roles
        if has_styles != (self.styles is not None):
            raise ValueError(f"styles go together with the graphs {MAPPING!r} and {SYNTHESIS!r}")
        first = self.graphs[MAPPING if has_styles else GENERATOR]
        last = self.graphs[SYNTHESIS if has_styles else GENERATOR]
        if bool(self.classes) != bool({CLASS_INDEX, CLASS_WEIGHTS} & set(first.inputs)):
            raise ValueError(f"classes and the input {CLASS_WEIGHTS} or {CLASS_INDEX} go together")
        if (latent.truncation is not None) != ("truncation" in first.inputs):
            raise ValueError("latent.truncation and the input truncation go together")
        if "z" not in first.inputs or "pixels" not in last.outputs:
            raise ValueError(f"{first.file} has to take z, and {last.file} to give pixels")
        if has_styles and ("w" not in first.outputs or set(last.inputs) - {TRANSFORM} != {"w"}):
            raise ValueError(
                f"{first.file} has to give w, and {last.file} to take w, alone or with {TRANSFORM}"
            )

    @property
    def takes_transform(self) -> bool:
        """Whether its pictures can be moved and turned."""
        return SYNTHESIS in self.graphs and TRANSFORM in self.graphs[SYNTHESIS].inputs

    @property
    def digest(self) -> str:
        """`sha256:…` of all that an image depends on, and of nothing else.

        A corrected summary or a newly measured figure leaves it as it was.
        """
        depends_on = {
            "graphs": {role: graph.sha256 for role, graph in self.graphs.items()},
            "latent": self.latent.model_dump(mode="json") if self.latent else None,
            "classes": self.classes,
            "styles": self.styles.model_dump(mode="json") if self.styles else None,
        }
        if self.input is not None:
            said = self.input.model_dump(mode="json")
            if said["least"] is None:  # Pictures of a model that says nothing of it stay the same.
                del said["least"]
            depends_on["input"] = said
        if weights := dict(each for graph in self.graphs.values() for each in graph.files[1:]):
            depends_on["data"] = weights
        text = json.dumps(depends_on, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def to_json(self) -> str:
        """Write the manifest without the parts that do not apply."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model folder. Raises ManifestError."""
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(f"{path} is not a manifest: {where}: {first['msg']}") from error


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
