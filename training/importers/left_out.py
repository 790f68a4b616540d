"""What a file contains besides the imported network.

Nothing is left out unless it is known not to be needed (a discriminator, other weights of the same
network, networks of the loss), or the user allows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.reading.weights import NO_NETWORKS, Network

_MAX_NAMES = 5
# Networks that are only needed for training, by the last part of their name.
_TRAINING_ONLY = (
    (
        r"(?:net|model|module)?_?D(?:_?[A-Z0-9])?(?:_ema|_state_dict|_model|_aug)?",
        "discriminator",
    ),
    (r"(?i:.*(?:discrim|critic|adversar).*)", "discriminator"),
    (r"(?i:(?:net_?|model_?)?(?:d|dis|disc)(?:_.*|\d*))", "discriminator"),
    (
        r"(?i:.*(?:vgg|lpips|perceptual|criterion|loss|inception|clip_model|arcface).*)",
        "loss network",
    ),
    (r"(?i:.*(?:fid|metric|augment).*)", "metric or augmentation"),
    (r"(?i:.*(?:optim|sched).*)", "optimizer state"),
)


def named(names: Sequence[str]) -> str:
    """Return tensor names for a message: at most five, and the number of others."""
    shown = ", ".join(names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def patterns_of(names: Sequence[str]) -> str:
    """Return options `--allow-unused` that cover the tensors."""
    prefixes = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    if len(prefixes) > _MAX_NAMES:
        prefixes = dict.fromkeys(name.partition(".")[0] for name in names)
    patterns = [f"{each}.*" if each not in names else each for each in prefixes]
    return " ".join(f"--allow-unused '{pattern}'" for pattern in patterns[:_MAX_NAMES])


def without_unused(
    networks: Sequence[Network], patterns: Sequence[str]
) -> tuple[list[Network], list[str]]:
    """Return the networks without the tensors that match a pattern, and what was left out.

    Patterns are compared with the names of tensors in a network, and with names that begin with the
    name of the network. Raises ImportOptionError for a pattern without a match.
    """
    matched: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    kept = []
    for network in networks:
        removed = []
        # With and without the prefixes that all names share, such as `module`.
        names = [*map(list, (each.tensors for each in network.unwrapped()))]
        for name, *short in zip(*names, strict=True):
            full = f"{network.name}.{name}".lstrip(".")
            inner = f"{network.name}.{short[-1]}".lstrip(".") if short else full
            for pattern in patterns:
                if any(fnmatchcase(each, pattern) for each in (name, full, inner, *short)):
                    matched[pattern].append(full)
                    removed.append(name)
        tensors = network.tensors.without(removed) if removed else network.tensors
        if len(tensors):
            kept.append(replace(network, tensors=tensors))
    for pattern, found in matched.items():
        if not found:
            raise ImportOptionError(f"--allow-unused {pattern}: no tensor has such a name")
    return kept, [f"--allow-unused {each}: {named(found)}" for each, found in matched.items()]


def left_out_networks(
    chosen: Network,
    whole: Network | None,
    networks: Sequence[Network],
    generators: Sequence[str],
    title: str,
) -> list[str]:
    """Return what is left out besides the chosen network, each with the reason.

    `whole` is the network that `chosen` is a part of, or None; `networks` are all networks of the
    file, and `generators` the names of those that could be imported. Raises ModelImportError, with
    the option to go on, for tensors that the images may depend on.
    """
    others = {each.name: each for each in networks if each.name != (whole or chosen).name}
    if whole is not None:
        others |= {part.name: part for part in whole.parts() if part.name != chosen.name}
    left_out, unknown = [], []
    for network in others.values():
        reason = _reason(network, chosen, generators)
        if reason is None:
            unknown.append(network)
        else:
            count = len(network.tensors)
            left_out.append(f"{reason}: {network.name} ({count} tensor{'s' * (count > 1)})")
    if unknown:
        names = [name for network in unknown for name in _full_names(network)]
        patterns = " ".join(
            f"--allow-unused '{each.name if _is_tensor(each) else f'{each.name}.*'}'"
            for each in unknown[:_MAX_NAMES]
        )
        raise ModelImportError(
            f"{chosen.name or 'a network'} matches {title}, but the file also contains "
            f"{named(names)}, which the images may depend on; {patterns} imports it without them"
        )
    return left_out


def left_out_state(content: Any) -> list[str]:
    """Return the training state in the content of a file, which is not searched for networks."""
    if not isinstance(content, Mapping):
        return []
    names = [
        key
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping | list) and value
    ]
    return [
        f"{'optimizer' if 'optim' in name.lower() else 'training'} state: {name}"
        for name in names
        if NO_NETWORKS.search(name.lower())
    ]


def _is_tensor(network: Network) -> bool:
    """True for a tensor outside of all networks, which `Network.parts` returns as a network."""
    return list(network.tensors) == [network.name.rpartition(".")[2]]


def _full_names(network: Network) -> list[str]:
    if _is_tensor(network):
        return [network.name]
    return [f"{network.name}.{name}".strip(".") for name in network.tensors]


def _reason(network: Network, chosen: Network, generators: Sequence[str]) -> str | None:
    """Return why a network is not needed; None if it may be."""
    if network.tensors.shapes() == chosen.tensors.shapes():
        return "other weights of the network"
    if network.name in generators:
        return "another generator"
    return _training_only_reason(network)


def is_training_only(network: Network) -> bool:
    """True for a discriminator and other networks that only training needs, by their name."""
    return _training_only_reason(network) is not None


def _training_only_reason(network: Network) -> str | None:
    parts = network.name.split(".")
    for pattern, reason in _TRAINING_ONLY:
        if any(re.fullmatch(pattern, part) for part in parts):
            return reason
    return None
