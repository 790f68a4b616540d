"""Finds the format of a checkpoint: matches every network in it against every known format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.importers.errors import FormatMismatchError, ModelImportError, first_line
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    FormatMatch,
    UserOptions,
    readable_key,
)
from training.importers.formats.image.animegan import AnimeGan
from training.importers.formats.image.compact import Compact
from training.importers.formats.image.residual import CycleGanResNet
from training.importers.formats.image.rrdb import Rrdb
from training.importers.formats.image.srgan import Srgan
from training.importers.formats.image.unet import Pix2PixUNet
from training.importers.formats.noise.biggan import BigGan, BigGanDeep
from training.importers.formats.noise.lightweight_gan import LightweightGan
from training.importers.formats.noise.lucidrains import LucidrainsStyleGan2
from training.importers.formats.noise.pretrained_biggan import PretrainedBigGan
from training.importers.formats.noise.pytorch_gan import PyTorchGan
from training.importers.formats.noise.sequential import Dcgan, Mlp
from training.importers.formats.noise.studiogan import StudioGan
from training.importers.formats.noise.stylegan2 import NvidiaStyleGan2, RosinalityStyleGan2
from training.importers.formats.noise.stylegan3 import NvidiaStyleGan3
from training.importers.reading.weights import Network

# Ordered from specific to general: the last formats are identified only by the order of layers.
FORMATS: tuple[Format, ...] = (
    NvidiaStyleGan2(),
    NvidiaStyleGan3(),
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


@dataclass(frozen=True)
class Candidate:
    """The match of a network against a format. `converted` is set if the network matches."""

    network: Network
    format: Format
    match: FormatMatch
    converted: ConvertedModel | None = None

    @property
    def label(self) -> str:
        """The network's name, or a substitute if it has none."""
        return self.network.name or "the file's network"


def match_formats(networks: Sequence[Network], options: UserOptions) -> list[Candidate]:
    """Match each network against each format, and convert it if it matches.

    The parts of a network are matched only if the network itself matches no format. Raises
    ImportOptionError.
    """
    candidates: list[Candidate] = []
    for network in networks:
        own = [_match(network, each, options) for each in FORMATS]
        damaged = any(
            candidate.match.score > _DAMAGED_SCORE and not candidate.format.by_layer_order
            for candidate in own
        )
        candidates += own
        if damaged or any(candidate.converted for candidate in own):
            continue
        for part in network.parts():
            matches = [_match(part, each, options) for each in FORMATS]
            candidates += [candidate for candidate in matches if candidate.converted]
    return candidates


def _match(network: Network, checkpoint_format: Format, options: UserOptions) -> Candidate:
    """Match a network against a format, with and without each of its wrappers."""
    best = Candidate(network, checkpoint_format, checkpoint_format.match(network))
    for unwrapped in network.unwrapped():
        match = checkpoint_format.match(unwrapped)
        if match.matches:
            try:
                converted = checkpoint_format.convert(unwrapped, options)
            except FormatMismatchError as error:
                match = replace(match, reason=str(error))
            except _SHAPE_ERRORS as error:
                reason = f"the shapes of its tensors do not fit together: {first_line(error)}"
                match = replace(match, reason=reason)
            else:
                return Candidate(network, checkpoint_format, match, converted)
        candidate = Candidate(network, checkpoint_format, match)
        best = max(best, candidate, key=lambda c: (c.match.score, c.match.reason is not None))
    return best


def select_candidate(candidates: Sequence[Candidate], name: str | None) -> Candidate:
    """Return the network to import, in the first format that it matches.

    `name` selects one of several networks. By default, averaged weights are preferred. Raises
    ModelImportError, with the nearest formats, if no network matches; or, with the names to choose
    from, if several networks match.
    """
    matching: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.converted:
            matching.setdefault(candidate.network.name, candidate)
    if name is not None:
        if name in matching:
            return matching[name]
        if matching:
            raise ModelImportError(
                f"--network {name}: unknown generator; choose {_choices(matching)}"
            )
        raise ModelImportError(f"--network {name}: {_no_format(candidates)}")
    if not matching:
        raise ModelImportError(_no_format(candidates))
    averaged = [candidate for candidate in matching.values() if candidate.network.averaged]
    preferred = averaged or list(matching.values())
    if len(preferred) > 1:
        raise ModelImportError(
            f"the file contains several generators; choose one with {_choices(matching)}"
        )
    return preferred[0]


def _choices(matching: dict[str, Candidate]) -> str:
    return ", ".join(f"--network {name} ({c.format.title})" for name, c in matching.items())


def nearest_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the best candidate of each of the nearest formats, best first."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        name = candidate.format.name
        if name not in best or candidate.match.score > best[name].match.score:
            best[name] = candidate
    ranked = sorted(best.values(), key=lambda c: (c.format.by_layer_order, -c.match.score))
    return [candidate for candidate in ranked if candidate.match.present][:_MAX_SUGGESTIONS]


def _no_format(candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "the file contains no network: nothing in it maps names to tensors"
    nearest = nearest_candidates(candidates)
    if not nearest:
        return "the network matches no known format; --explain shows which keys were expected"
    reasons = []
    for candidate in nearest:
        match = candidate.match
        missing = ", ".join(map(readable_key, match.missing))
        reason = f"missing: {missing}" if missing else match.reason
        reasons.append(f"{candidate.format.title} ({reason})")
    return f"the network matches no known format; the nearest are {'; '.join(reasons)}"
