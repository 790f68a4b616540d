"""Finds the format of a checkpoint: matches every network in it against every known format.

A network matches only if the format uses all of its tensors, or names those that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from service.runtime.errors import first_line
from training.importers.errors import (
    FormatMismatchError,
    ImportOptionError,
    ModelImportError,
    UnknownFormatError,
)
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    FormatMatch,
    readable_key,
)
from training.importers.formats.image.animegan import AnimeGan
from training.importers.formats.image.compact import Compact
from training.importers.formats.image.fast_srgan import FastSrgan
from training.importers.formats.image.residual import CycleGanResNet
from training.importers.formats.image.rrdb import Rrdb
from training.importers.formats.image.srgan import Srgan
from training.importers.formats.image.unet import Pix2PixUNet
from training.importers.formats.noise.biggan import BigGan, BigGanDeep
from training.importers.formats.noise.lightweight_gan import LightweightGan
from training.importers.formats.noise.lucidrains import LucidrainsStyleGan2
from training.importers.formats.noise.pretrained_biggan import PretrainedBigGan
from training.importers.formats.noise.pytorch_gan import PyTorchGan
from training.importers.formats.noise.r3gan import R3Gan
from training.importers.formats.noise.sequential import Dcgan, Mlp
from training.importers.formats.noise.studiogan import StudioGan
from training.importers.formats.style.stylegan2 import NvidiaStyleGan2, RosinalityStyleGan2
from training.importers.formats.style.stylegan3 import NvidiaStyleGan3
from training.importers.left_out import left_out_networks, named, patterns_of, without_unused
from training.importers.options import Choices, UndeterminedError, UserOptions, flag
from training.importers.reading.weights import Network

# Ordered from specific to general: the last formats are identified only by the order of layers.
FORMATS: tuple[Format, ...] = (
    NvidiaStyleGan2(),
    NvidiaStyleGan3(),
    R3Gan(),
    RosinalityStyleGan2(),
    LucidrainsStyleGan2(),
    LightweightGan(),
    BigGan(),
    BigGanDeep(),
    PretrainedBigGan(),
    StudioGan(),
    Rrdb(),
    Compact(),
    Srgan(),
    FastSrgan(),
    AnimeGan(),
    PyTorchGan(),
    Pix2PixUNet(),
    CycleGanResNet(),
    Dcgan(),
    Mlp(),
)
_MAX_SUGGESTIONS = 3
# Errors while building a network from tensors that have the names of a format, but not its shapes.
_SHAPE_ERRORS = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
# With a higher score, a network is an incomplete instance of a format, not a set of networks.
_DAMAGED_SCORE = 0.6
# What a tensor with a name must not hold, with advice.
_INVALID_VALUES: dict[str, Callable[[str, Tensor], bool]] = {
    "NaN: the training diverged; use an earlier checkpoint": lambda _, x: bool(x.isnan().any()),
    "infinite values: the training diverged; use an earlier checkpoint": (
        lambda _, x: bool(x.isinf().any())
    ),
    "negative variances: the file is damaged; use another checkpoint": (
        lambda name, x: name.rpartition(".")[2] == "running_var" and bool((x < 0).any())
    ),
}


@dataclass(frozen=True)
class Candidate:
    """The match of a network against a format. `converted` is set if the network matches."""

    network: Network
    format: Format
    match: FormatMatch
    converted: ConvertedModel | None = None
    # The names of properties that the user set, but that the format does not have.
    ignored_options: Sequence[str] = ()
    # The network without its wrappers, which was converted.
    unwrapped: Network | None = None
    # What the user left out of the file.
    allowed_unused: Sequence[str] = ()
    # The network that `network` is a part of, if it is not a network of its own.
    whole: Network | None = None
    # Set if the network matches, but a property without a default is not set.
    undetermined: UndeterminedError | None = None

    @property
    def matches(self) -> bool:
        """True if the network is of the format."""
        return self.converted is not None or self.undetermined is not None

    @property
    def source(self) -> Network:
        """The network that the converter reads."""
        return self.unwrapped or self.network

    @property
    def label(self) -> str:
        """The network's name, or a substitute if it has none."""
        return self.network.name or "the file's network"

    @property
    def near(self) -> bool:
        """True if the network has most of the structure of the format."""
        if self.matches:
            return True
        if self.format.by_layer_order:
            return self.match.near
        return self.match.near or self.match.score > _DAMAGED_SCORE


def match_formats(networks: Sequence[Network], options: UserOptions) -> list[Candidate]:
    """Match each network against each format, and convert it if it matches.

    The parts of a network are matched only if the network itself matches no format. Tensors that
    the user left out are removed first. Raises ImportOptionError.
    """
    networks, allowed = without_unused(networks, options.allow_unused)
    candidates: list[Candidate] = []
    for network in networks:
        own = [_match(network, each, options) for each in FORMATS]
        damaged = any(each.near and not each.format.by_layer_order for each in own)
        candidates += own
        if damaged or any(candidate.matches for candidate in own):
            continue
        for part in network.parts():
            matches = [_match(part, each, options) for each in FORMATS]
            candidates += [replace(each, whole=network) for each in matches if each.matches]
    return [replace(candidate, allowed_unused=allowed) for candidate in candidates]


def _match(network: Network, checkpoint_format: Format, options: UserOptions) -> Candidate:
    """Match a network against a format, with and without each of its wrappers."""
    best = Candidate(network, checkpoint_format, checkpoint_format.match(network))
    for unwrapped in network.unwrapped():
        match = checkpoint_format.match(unwrapped)
        if match.matches:
            source, choices = unwrapped.fresh(), Choices(options)
            try:
                converted = convert_network(checkpoint_format, source, choices)
            except FormatMismatchError as error:
                match = replace(match, reason=str(error), near=error.near)
            except UndeterminedError as error:
                match = replace(match, reason=str(error), near=True)
                return Candidate(
                    network, checkpoint_format, match, undetermined=error, unwrapped=unwrapped
                )
            except _SHAPE_ERRORS as error:
                reason = f"the shapes of its tensors do not fit together: {first_line(error)}"
                match = replace(match, reason=reason)
            else:
                return Candidate(
                    network,
                    checkpoint_format,
                    match,
                    converted,
                    ignored_options=choices.ignored,
                    unwrapped=unwrapped,
                )
        candidate = Candidate(network, checkpoint_format, match)
        best = max(best, candidate, key=lambda c: (c.match.score, c.match.reason is not None))
    return best


def convert_network(
    checkpoint_format: Format, network: Network, choices: Choices
) -> ConvertedModel:
    """Convert a network. Raises FormatMismatchError if a tensor of it is not used."""
    converted = checkpoint_format.convert(network, choices)
    if checkpoint_format.published:
        choices.fixed("as in the published network", checkpoint_format.published)
    unused, unneeded = [], dict[str, list[str]]()
    for name in network.tensors.unread():
        reason = checkpoint_format.unneeded_reason(name)
        if reason is None:
            unused.append(name)
        else:
            unneeded.setdefault(reason, []).append(name)
    if unused:
        raise FormatMismatchError(
            f"it does not use {named(unused)}, without which the images may be wrong; "
            f"{patterns_of(unused)} imports it without them",
            near=True,
        )
    left_out = [f"{reason}: {named(names)}" for reason, names in unneeded.items()]
    return replace(converted, assumptions=choices.assumptions, left_out=left_out)


def select_candidate(
    candidates: Sequence[Candidate], name: str | None, *, undetermined: bool = False
) -> Candidate:
    """Return the network to import, in the first format that it matches.

    `name` selects one of several networks. By default, averaged weights are preferred. Raises
    ModelImportError if no network matches, if several match, if the file contains other tensors
    that may be needed, or if a weight is not finite; and ImportOptionError for options without an
    effect. With `undetermined`, the network may have properties that no option sets yet.
    """
    best = _select(candidates, name)
    if best.undetermined is not None:
        if undetermined:
            return best
        raise best.undetermined
    assert best.converted is not None  # noqa: S101 - for the type checker
    networks = [each.whole or each.network for each in candidates]
    matching = [each.network.name for each in candidates if each.matches]
    left_out = left_out_networks(best.network, best.whole, networks, matching, best.format.title)
    left_out += best.allowed_unused
    if best.ignored_options:
        flags = ", ".join(flag(each).rstrip("=") for each in best.ignored_options)
        known = [flag(each.name) for each in best.converted.assumptions if each.name]
        raise ImportOptionError(
            f"{flags} has no effect on {best.label}, {best.format.title}; options that have one: "
            f"{', '.join(known) or 'none'}"
        )
    _check_finite(best.network)
    converted = replace(best.converted, left_out=[*best.converted.left_out, *left_out])
    return replace(best, converted=converted)


def _select(candidates: Sequence[Candidate], name: str | None) -> Candidate:
    matching: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.matches:
            matching.setdefault(candidate.network.name, candidate)
    if name is not None:
        if name in matching:
            return matching[name]
        if matching:
            raise ModelImportError(
                f"--network {name}: unknown generator; choose {_choices(matching)}"
            )
        raise _no_format(candidates, f"--network {name}: ")
    if not matching:
        raise _no_format(candidates)
    averaged = [candidate for candidate in matching.values() if candidate.network.averaged]
    preferred = averaged or list(matching.values())
    if len(preferred) > 1:
        raise ModelImportError(
            f"the file contains several generators; choose one with {_choices(matching)}"
        )
    return preferred[0]


def _choices(matching: dict[str, Candidate]) -> str:
    return ", ".join(f"--network {name} ({c.format.title})" for name, c in matching.items())


def _check_finite(network: Network) -> None:
    """Raise ModelImportError if a tensor contains NaN, infinite values or negative variances."""
    for words, is_invalid in _INVALID_VALUES.items():
        names = []
        for name in network.tensors:
            tensor = network.tensors.peek(name)
            if tensor is None or not tensor.is_floating_point():
                continue
            # As float32, which the model computes in.
            if is_invalid(name, tensor.float()):
                names.append(network.tensors.origins(name)[0])
        if names:
            verb = "holds" if len(names) == 1 else "hold"
            raise ModelImportError(f"{named(names)} {verb} {words}")


def nearest_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the best candidate of each format that is near, best first."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        name = candidate.format.name
        if name not in best or candidate.match.score > best[name].match.score:
            best[name] = candidate
    ranked = sorted(best.values(), key=lambda c: (c.format.by_layer_order, -c.match.score))
    return [candidate for candidate in ranked if candidate.near][:_MAX_SUGGESTIONS]


def _no_format(candidates: Sequence[Candidate], prefix: str = "") -> ModelImportError:
    if not candidates:
        return ModelImportError(
            f"{prefix}the file contains no network: nothing in it maps names to tensors"
        )
    way_on = "export it with torch.onnx.export where its code is, and import the .onnx file"
    nearest = nearest_candidates(candidates)
    if not nearest:
        return UnknownFormatError(f"{prefix}the network matches no known format; {way_on}")
    reasons = []
    for candidate in nearest:
        match = candidate.match
        missing = ", ".join(dict.fromkeys(map(readable_key, match.missing)))
        reason = f"missing: {missing}" if missing else match.reason
        reasons.append(f"{candidate.format.title} ({reason})")
    return UnknownFormatError(
        f"{prefix}the network matches no known format; near is {'; '.join(reasons)}; or {way_on}"
    )
