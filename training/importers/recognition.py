"""Which format a file is of: every network in it against every format that is known."""

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
from training.importers.formats.image.residual import ResidualTranslator
from training.importers.formats.image.rrdb import Rrdb
from training.importers.formats.image.srgan import Srgan
from training.importers.formats.image.unet import UNetTranslator
from training.importers.formats.noise.biggan import BigGan, BigGanDeep
from training.importers.formats.noise.lightweight_gan import LightweightGan
from training.importers.formats.noise.lucidrains import LucidrainsStyleGan2
from training.importers.formats.noise.pretrained_biggan import PretrainedBigGan
from training.importers.formats.noise.pytorch_gan import PyTorchGan
from training.importers.formats.noise.sequential import DcganChain, MlpChain
from training.importers.formats.noise.studiogan import StudioGan
from training.importers.formats.noise.stylegan2 import NvidiaStyleGan2, RosinalityStyleGan2
from training.importers.formats.noise.stylegan3 import NvidiaStyleGan3
from training.importers.reading.weights import Network

# The more particular ones first: the chains of layers would take much for theirs.
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
    UNetTranslator(),
    ResidualTranslator(),
    DcganChain(),
    MlpChain(),
)
_NEAREST = 3
_MISSHAPEN = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
_NEARLY = 0.6


@dataclass(frozen=True)
class Candidate:
    """A network held against a format."""

    network: Network
    format: Format
    match: FormatMatch
    converted: ConvertedModel | None = None

    @property
    def says(self) -> str:
        """The network's name, or what stands for one."""
        return self.network.name or "the file's network"


def match_formats(networks: Sequence[Network], options: UserOptions) -> list[Candidate]:
    """Hold each network against each format, its wrappers peeled off. Raises ImportOptionError.

    Those that fit have been rebuilt. Of the parts of a network only those are looked at whose whole
    is of no format.
    """
    tried: list[Candidate] = []
    for network in networks:
        whole = [_candidate(network, form, options) for form in FORMATS]
        # What is nearly of a format is that with a fault, and no heap of other networks.
        nearly = any(a.match.score > _NEARLY and not a.format.by_layer_order for a in whole)
        if not nearly and not any(candidate.converted for candidate in whole):
            for part in network.parts():
                inner = [_candidate(part, form, options) for form in FORMATS]
                whole += [candidate for candidate in inner if candidate.converted]
        tried += whole
    return tried


def _candidate(network: Network, form: Format, options: UserOptions) -> Candidate:
    """Hold a network against a format, as it is and without each of its wrappers."""
    best = Candidate(network, form, form.match(network))
    for peeled in network.peeled():
        match = form.match(peeled)
        if match.matches:
            try:
                return Candidate(network, form, match, form.convert(peeled, options))
            except FormatMismatchError as error:
                match = replace(match, reason=str(error))
            except _MISSHAPEN as error:
                # Names that are all there, on tensors of other shapes than any such network has.
                match = replace(
                    match, reason=f"its tensors do not fit together: {first_line(error)}"
                )
        if (match.score, match.reason is not None) > (
            best.match.score,
            best.match.reason is not None,
        ):
            best = Candidate(network, form, match)
    return best


def select_candidate(tried: Sequence[Candidate], wanted: str | None) -> Candidate:
    """Return the one network that is meant, in the first format that it fits.

    Of a training's weights and their average it is the average. Raises ModelImportError, with the
    nearest formats or the names to choose from.
    """
    fitting: dict[str, Candidate] = {}
    for candidate in tried:
        if candidate.converted:
            fitting.setdefault(candidate.network.name, candidate)
    if wanted is not None:
        if wanted in fitting:
            return fitting[wanted]
        raise ModelImportError(f"--network {wanted}: {_choices(fitting) or _nearest_text(tried)}")
    if not fitting:
        raise ModelImportError(_nearest_text(tried))
    averaged = [candidate for candidate in fitting.values() if candidate.network.averaged]
    left = averaged or list(fitting.values())
    if len(left) > 1:
        raise ModelImportError(f"several networks are in it, so say which: {_choices(fitting)}")
    return left[0]


def _choices(fitting: dict[str, Candidate]) -> str:
    return ", ".join(f"--network {name} ({a.format.title})" for name, a in fitting.items())


def nearest_candidates(tried: Sequence[Candidate]) -> list[Candidate]:
    """Return the attempts that came nearest, the nearest of each format, best first."""
    best: dict[str, Candidate] = {}
    for candidate in tried:
        name = candidate.format.name
        if name not in best or candidate.match.score > best[name].match.score:
            best[name] = candidate
    ranked = sorted(best.values(), key=lambda a: (a.format.by_layer_order, -a.match.score))
    return [candidate for candidate in ranked if candidate.match.present][:_NEAREST]


def _nearest_text(tried: Sequence[Candidate]) -> str:
    if not tried:
        return "there is no network in it: nothing that names tensors"
    near = nearest_candidates(tried)
    if not near:
        return "no format that is known is like it; --explain shows what was looked for"
    details = []
    for candidate in near:
        match = candidate.match
        why = (
            f"without {', '.join(map(readable_key, match.missing))}"
            if match.missing
            else match.reason
        )
        details.append(f"{candidate.format.title} ({why})")
    return f"it is of no format that is known; the nearest: {'; '.join(details)}"
