"""The provenance of a model: what it was trained on, or imported from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.runtime.models.parts.part import SHA256, Part, Positive


class NetworkTransfer(Part):
    """What fine-tuning took from its source for one network, by names of tensors.

    Tensors in `new` are not in the source or have another shape there; those in `unused` are in
    the source only, or have another shape here.
    """

    network: Literal["generator", "average", "discriminator"]
    taken: Annotated[int, Field(ge=0)]
    # The fraction of the network's values that were taken.
    share: Annotated[float, Field(ge=0, le=1)]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    # The classes whose embeddings were taken, and those that start from the mean embedding.
    kept_classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    # Output layers of new resolutions, which added nothing to the image at first.
    zero: tuple[str, ...] = ()


class FineTuning(Part):
    """The weights that a training started from, identified by the SHA-256 of their file."""

    source: str
    sha256: SHA256
    license: str = "unknown"
    # Images that the source was trained on, if known.
    images: Positive | None = None
    networks: tuple[NetworkTransfer, ...] = ()


class TrainingData(Part):
    """The images that a model was trained on: `source` for the inputs of an image-to-image model.

    `fingerprint` is a SHA-256 of the image files and their classes. It does not depend on the path.
    `name` is the recipe's name of the data set, and None for data that were given by path. The
    other fields are the selection of the recipe.
    """

    role: Literal["data", "source"] = "data"
    title: str
    license: str
    name: str | None = None
    images: Positive
    class_count: Annotated[int, Field(ge=0)] = 0
    fingerprint: SHA256
    split: str | None = None
    classes: tuple[str, ...] | None = None
    only: str | None = None
    hold_out: Positive | None = None
    half: Annotated[int, Field(ge=0)] | None = None
    limit: Positive | None = None
    # How the data were changed to fit, such as sounds that were padded or cropped to one length.
    preparation: str | None = None
    # The peak to which sounds were scaled, or None if they keep their loudness.
    peak: float | None = None


class TrainingProvenance(Part):
    """The provenance of a model trained by Ganymede."""

    kind: Literal["training"] = "training"
    recipe: str
    dataset: str
    dataset_license: str
    # Real images shown, training steps, duration in seconds, and the device.
    images: Positive
    turns: Positive
    seconds: float
    device: str
    seed: int
    # The commit of Ganymede if it ran from a checkout, else its version.
    code_revision: str
    # The images that were used; empty in models exported before this was recorded.
    data: tuple[TrainingData, ...] = ()
    # What was changed while the run was in progress, one line per change.
    overrides: tuple[str, ...] = ()
    # The weights that the training started from; None for random weights.
    fine_tuned: FineTuning | None = None
    # Pretrained networks that judged the images in training, with their data and license.
    pretrained: tuple[str, ...] = ()


class ImportAssumption(Part):
    """A property of an imported network that its file does not determine.

    `source` is where the value comes from; `flag` is the option of the import that changes it.
    """

    subject: str
    value: str
    source: Literal["assumed", "option", "configuration", "names"]
    flag: str | None = None


class ImportProvenance(Part):
    """The provenance of an imported model."""

    kind: Literal["import"] = "import"
    format: str
    source_file: str
    source_sha256: SHA256
    importer_version: str
    assumptions: tuple[ImportAssumption, ...] = ()
    # What the file contains and the model does not, with the reason.
    left_out: tuple[str, ...] = ()
