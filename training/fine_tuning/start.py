"""Starts a training from the weights of another run, model or checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from service.runtime.models.parts.provenance import FineTuning, NetworkTransfer
from training.fine_tuning.errors import FineTuningError
from training.fine_tuning.sources import Source, open_source
from training.fine_tuning.transfer import ClassNames, Transfer, transfer
from training.recipe.schema import Recipe

# Tensors that are listed for each network; the run's provenance.json lists all.
_SHOWN = 8


def start_from_weights(
    recipe: Recipe, networks: Mapping[str, nn.Module], class_names: tuple[str, ...]
) -> FineTuning | None:
    """Copy the weights of the recipe's source into new networks, and return the record.

    Returns None for a recipe without a source. If the source has only one of the generator and its
    moving average, both start from it. Raises FineTuningError.
    """
    if recipe.fine_tune is None:
        return None
    source = open_source(recipe.fine_tune.weights)
    source.check_game(recipe)
    states = dict(source.networks)
    for name, other in (("generator", "average"), ("average", "generator")):
        if name not in states and other in states:
            states[name] = states[other]
    classes = ClassNames(source.class_names, class_names)
    transfers = [
        transfer(name, states[name], network, classes)
        for name, network in networks.items()
        if name in states
    ]
    if not any(each.taken for each in transfers):
        raise FineTuningError(
            f"nothing of {source.title} fits the networks of the recipe: no tensor has the same "
            "name and shape; use the generator and the discriminator of the source's recipe"
        )
    return _record(source, transfers)


def _record(source: Source, transfers: list[Transfer]) -> FineTuning:
    return FineTuning(
        source=source.title,
        sha256=source.sha256,
        license=source.license,
        images=source.images,
        networks=tuple(
            NetworkTransfer(
                network=each.network,
                taken=len(each.taken),
                share=each.share,
                new=each.new,
                unused=each.unused,
                kept_classes=each.kept_classes,
                new_classes=each.new_classes,
                zero=each.zero,
            )
            for each in transfers
        ),
    )


def summary_lines(record: FineTuning) -> Iterator[str]:
    """Yield lines for the user: what was taken, and what does not fit in either direction."""
    images = f", trained on {record.images:,} images" if record.images else ""
    yield f"fine-tunes {record.source} (SHA-256 {record.sha256[:12]}){images}"
    for each in record.networks:
        line = f"{each.network}: {each.taken} tensors taken, {each.share:.1%} of its values"
        if each.kept_classes or each.new_classes:
            kept = ", ".join(each.kept_classes) or "none"
            line += f"; classes kept: {kept}"
            if each.new_classes:
                line += f"; from the mean of all classes: {', '.join(each.new_classes)}"
        yield line
        if each.new:
            yield f"{each.network}, new: {_shortened(each.new)}"
        if each.zero:
            names = ", ".join(each.zero)
            yield f"{each.network}, starts by enlarging the source's images; at zero: {names}"
        if each.unused:
            yield f"{each.network}, not used: {_shortened(each.unused)}"
    if not any(each.network == "discriminator" and each.taken for each in record.networks):
        yield (
            "the source has no discriminator that fits: it starts from random weights; "
            "fine_tune.freeze_generator_images trains it first"
        )


def _shortened(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - _SHOWN} more (see provenance.json)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
