"""Which images a run uses: the record that identifies them, and comparisons with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.runtime.models.parts.provenance import TrainingData
from training.data.dataset import Dataset
from training.data.images import UNKNOWN_LICENSE, DataOptions, load_images
from training.data.sources import DataError

if TYPE_CHECKING:
    from training.recipe.schema import Recipe


def training_data(recipe: Recipe, data: Dataset) -> tuple[TrainingData, ...]:
    """Return the records of `data`, the images of `recipe.data`, and of the recipe's source.

    Raises DataError.
    """
    records = [_record("data", recipe.data, data)]
    if recipe.source is not None:
        records.append(_record("source", recipe.source, load_images(recipe.source)))
    return tuple(records)


def _record(role: str, options: DataOptions, images: Dataset) -> TrainingData:
    return TrainingData(
        role="source" if role == "source" else "data",
        title=options.dataset_title,
        license=options.dataset_license,
        name=options.known_name,
        images=len(images),
        class_count=len(images.class_names),
        fingerprint=images.fingerprint,
        preparation=images.preparation,
        peak=options.sound.peak if options.sound else None,
        **options.model_dump(include=_SELECTION),
    )


# Fields of `DataOptions` that select images, and that the record has too.
_SELECTION = {"split", "classes", "only", "hold_out", "half", "limit"}


def selected_data(record: TrainingData | None, **options: Any) -> DataOptions:
    """Return the options that select the recorded data, with other `options` beside them.

    The name is None for data without a known name; `options` may replace it.
    """
    selection = record.model_dump(include={"name", *_SELECTION}) if record else {}
    return DataOptions.model_validate({**selection, **options})


def data_options(record: TrainingData, resolution: int, channels: int) -> DataOptions | None:
    """Return the options that select the recorded images, or None for data without a known name."""
    if record.name is None:
        return None
    return selected_data(record, resolution=resolution, channels=channels)


def description(record: TrainingData) -> str:
    """Return the title, number of images and fingerprint as text."""
    classes = f" in {record.class_count} classes" if record.class_count else ""
    return (
        f"{record.title}, {record.images:,} images{classes}, fingerprint {record.fingerprint[:12]}"
    )


def data_changes(
    before: Sequence[TrainingData], after: Sequence[TrainingData]
) -> list[tuple[str, str, str]]:
    """Return (role, before, after) for each record whose images differ."""
    later = {record.role: record for record in after}
    return [
        (record.role, description(record), description(later[record.role]))
        for record in before
        if record.role in later and later[record.role].fingerprint != record.fingerprint
    ]


def check_training_data(model: str, record: TrainingData, images: Dataset) -> None:
    """Raise DataError unless `images` are the recorded images that `model` was trained on."""
    if images.fingerprint != record.fingerprint:
        raise DataError(
            f"{record.title} has changed since {model} was trained on it: trained on "
            f"{record.images:,} {images.kind} with the fingerprint {record.fingerprint[:12]}, "
            f"found {len(images):,} with {images.fingerprint[:12]}; restore the data set, or "
            f"compare with these {images.kind} anyway with --data"
        )


def license_notes(records: Sequence[TrainingData]) -> list[str]:
    """Return a line for each data set whose license is not known."""
    return [
        f"The license of the training data {record.title} is not known; "
        f"set {record.role}.license in the recipe."
        for record in records
        if record.license == UNKNOWN_LICENSE
    ]
