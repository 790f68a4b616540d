"""Which format a file is of: every network in it against every format that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.importers.errors import ImportFailed, Unsuitable, one_line
from training.importers.formats.base import Fit, Format, Rebuilt, UserOptions, shown
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
class Attempt:
    """A network held against a format."""

    network: Network
    format: Format
    fit: Fit
    rebuilt: Rebuilt | None = None

    @property
    def says(self) -> str:
        """The network's name, or what stands for one."""
        return self.network.name or "the file's network"


def attempts(networks: Sequence[Network], said: UserOptions) -> list[Attempt]:
    """Hold each network against each format, its wrappers peeled off. Raises Unsaid.

    Those that fit have been rebuilt. Of the parts of a network only those are looked at whose whole
    is of no format.
    """
    tried: list[Attempt] = []
    for network in networks:
        whole = [_attempt(network, form, said) for form in FORMATS]
        # What is nearly of a format is that with a fault, and no heap of other networks.
        nearly = any(a.fit.share > _NEARLY and not a.format.by_order for a in whole)
        if not nearly and not any(attempt.rebuilt for attempt in whole):
            for part in network.parts():
                inner = [_attempt(part, form, said) for form in FORMATS]
                whole += [attempt for attempt in inner if attempt.rebuilt]
        tried += whole
    return tried


def _attempt(network: Network, form: Format, said: UserOptions) -> Attempt:
    """Hold a network against a format, as it is and without each of its wrappers."""
    best = Attempt(network, form, form.fit(network))
    for peeled in network.peeled():
        fit = form.fit(peeled)
        if fit.fits:
            try:
                return Attempt(network, form, fit, form.rebuild(peeled, said))
            except Unsuitable as error:
                fit = replace(fit, reason=str(error))
            except _MISSHAPEN as error:
                # Names that are all there, on tensors of other shapes than any such network has.
                fit = replace(fit, reason=f"its tensors do not fit together: {one_line(error)}")
        if (fit.share, fit.reason is not None) > (best.fit.share, best.fit.reason is not None):
            best = Attempt(network, form, fit)
    return best


def chosen(tried: Sequence[Attempt], wanted: str | None) -> Attempt:
    """Return the one network that is meant, in the first format that it fits.

    Of a training's weights and their average it is the average. Raises ImportFailed, with the
    nearest formats or the names to choose from.
    """
    fitting: dict[str, Attempt] = {}
    for attempt in tried:
        if attempt.rebuilt:
            fitting.setdefault(attempt.network.name, attempt)
    if wanted is not None:
        if wanted in fitting:
            return fitting[wanted]
        raise ImportFailed(f"--network {wanted}: {_choices(fitting) or _nearest(tried)}")
    if not fitting:
        raise ImportFailed(_nearest(tried))
    averaged = [attempt for attempt in fitting.values() if attempt.network.averaged]
    left = averaged or list(fitting.values())
    if len(left) > 1:
        raise ImportFailed(f"several networks are in it, so say which: {_choices(fitting)}")
    return left[0]


def _choices(fitting: dict[str, Attempt]) -> str:
    return ", ".join(f"--network {name} ({a.format.title})" for name, a in fitting.items())


def nearest(tried: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that came nearest, the nearest of each format, best first."""
    best: dict[str, Attempt] = {}
    for attempt in tried:
        name = attempt.format.name
        if name not in best or attempt.fit.share > best[name].fit.share:
            best[name] = attempt
    ranked = sorted(best.values(), key=lambda a: (a.format.by_order, -a.fit.share))
    return [attempt for attempt in ranked if attempt.fit.there][:_NEAREST]


def _nearest(tried: Sequence[Attempt]) -> str:
    if not tried:
        return "there is no network in it: nothing that names tensors"
    near = nearest(tried)
    if not near:
        return "no format that is known is like it; --explain shows what was looked for"
    told = []
    for attempt in near:
        fit = attempt.fit
        why = f"without {', '.join(map(shown, fit.missing))}" if fit.missing else fit.reason
        told.append(f"{attempt.format.title} ({why})")
    return f"it is of no format that is known; the nearest: {'; '.join(told)}"
