"""The options of an import, and what a converter assumes where an option is not set.

Tensors do not determine the whole network: activations, strides, paddings, the place and the
constants of normalizations, value ranges and the distribution of z are not in a checkpoint. A
converter asks a `Choices` object for each of them. It returns the user's option or the default of
the format, and records which one it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from service.runtime.models.parts.provenance import ImportAssumption
from training.importers.errors import ImportOptionError

T = TypeVar("T")
Source = Literal["assumed", "option", "configuration", "names"]
# Properties with a flag of their own. All others are set with `--assume NAME=VALUE`.
_FLAGS = {
    "activation": "--activation",
    "channels": "--channels",
    "class_names": "--class-names",
    "classes": "--classes",
    "config": "--config",
    "input_range": "--input-range",
    "latent": "--latent",
    "output": "--output",
    "range": "--range",
    "side": "--side",
    "statistics": "--statistics",
}


def flag(name: str) -> str:
    """Return the flag that sets a property, such as ``--latent`` or ``--assume slope=``."""
    return _FLAGS.get(name, f"--assume {name}=")


def setting(name: str, value: str) -> str:
    """Return the arguments that set a property: ``--latent unit`` or ``--assume slope=0.1``."""
    return f"{flag(name)} {value}" if name in _FLAGS else f"{flag(name)}{value}"


@dataclass(frozen=True)
class UserOptions:
    """Command-line options for properties that the tensors do not determine. None: not set."""

    classes: int | None = None
    class_names: tuple[str, ...] = ()
    side: int | None = None
    channels: int | None = None
    activation: str | None = None
    output: str | None = None
    statistics: str | None = None
    latent: str | None = None
    range: str | None = None
    input_range: str | None = None
    # Other properties, by name: `--assume NAME=VALUE`.
    assume: Mapping[str, str] = field(default_factory=dict)
    # Patterns of the names of tensors that are left out: `--allow-unused`.
    allow_unused: tuple[str, ...] = ()
    # The training configuration that accompanies the checkpoint, with its author's keys.
    config: Mapping[str, Any] = field(default_factory=dict)

    def given(self, name: str) -> str | None:
        """Return the value that the user set for a property; None if it is not set."""
        own = getattr(self, name, None) if name in _FLAGS else None
        return str(own) if own is not None else self.assume.get(name)

    def merged(self, settings: Mapping[str, str]) -> UserOptions:
        """Return the options with some properties set, by name."""
        own = {name: value for name, value in settings.items() if name in _FLAGS}
        rest = {name: value for name, value in settings.items() if name not in _FLAGS}
        return replace(self, **own, assume={**self.assume, **rest})  # type: ignore[arg-type]

    def given_names(self) -> list[str]:
        """Return the names of all properties that the user set, except for a configuration."""
        own = [name for name in _FLAGS if name != "config" and getattr(self, name)]
        return [*own, *self.assume]


@dataclass(frozen=True)
class Assumption:
    """A property of the network that the tensors do not determine.

    `alternatives` are the other plausible values. Without a `name`, no option changes it.
    """

    name: str
    subject: str
    value: str
    source: Source = "assumed"
    alternatives: tuple[str, ...] = ()

    @property
    def way_to_change(self) -> str:
        """How to change the value, as an option with its other values."""
        if not self.name:
            return "another network needs an export to ONNX"
        if not self.alternatives:
            return f"{flag(self.name)}{' ' if self.name in _FLAGS else ''}VALUE"
        return setting(self.name, " | ".join(self.alternatives))

    def __str__(self) -> str:
        """Return the assumption in one line, for the output and the model card."""
        if self.source == "assumed":
            return f"{self.subject}: {self.value} ({self.way_to_change})"
        origin = {
            "option": f"from {flag(self.name).rstrip('=')}",
            "configuration": "from the configuration",
            "names": f"from the tensor names; {self.way_to_change}",
        }
        return f"{self.subject}: {self.value} ({origin[self.source]})"

    def entry(self) -> ImportAssumption:
        """Return the assumption for the manifest."""
        return ImportAssumption(
            subject=self.subject,
            value=self.value,
            source=self.source,
            flag=flag(self.name).rstrip("=") if self.name else None,
        )


class UndeterminedError(ImportOptionError):
    """A property has no default, and the user did not set it."""

    # The name of the property, what it is, and its values.
    name: str
    subject: str
    known: tuple[str, ...]

    @classmethod
    def of(cls, name: str, subject: str, known: Sequence[str]) -> UndeterminedError:
        """Return the error for a property with these known values."""
        ways = " or ".join(setting(name, each) for each in known)
        error = cls(f"the tensors do not determine the {subject}: set {ways}")
        error.name, error.subject, error.known = name, subject, tuple(known)
        return error


class Choices:
    """The properties of a network that its tensors do not determine.

    A converter reads each property here. Its value is the user's option, comes from the training
    configuration, or is a default.
    Every property that is read is recorded, with its value and source.

    All methods raise ImportOptionError for an option with an invalid value.
    """

    def __init__(self, options: UserOptions) -> None:
        self.options = options
        self._asked: set[str] = set()
        self._assumptions: dict[str, Assumption] = {}

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """What was asked for, in order: assumed values first, then options."""
        return tuple(sorted(self._assumptions.values(), key=lambda a: a.source != "assumed"))

    @property
    def ignored(self) -> list[str]:
        """The names of properties that the user set, but that no question was asked about."""
        return [name for name in self.options.given_names() if name not in self._asked]

    def _given(self, name: str) -> str | None:
        self._asked.add(name)
        return self.options.given(name)

    @property
    def config(self) -> Mapping[str, Any]:
        """The training configuration."""
        return self.options.config

    @property
    def side(self) -> int | None:
        """The side of the images in pixels, from `--side`."""
        self._asked.add("side")
        return self.options.side

    @property
    def channels(self) -> int | None:
        """The channels of the images, from `--channels`."""
        self._asked.add("channels")
        return self.options.channels

    @property
    def classes(self) -> int | None:
        """The number of classes, from `--classes`."""
        self._asked.add("classes")
        return self.options.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, from `--class-names`."""
        self._asked.add("class_names")
        return self.options.class_names

    def note(self, assumption: Assumption) -> None:
        """Record what is assumed about a subject."""
        self._assumptions[assumption.subject] = assumption

    def fixed(self, subject: str, value: str) -> None:
        """Record an assumption that no option changes."""
        self.note(Assumption("", subject, value))

    def one_of(
        self,
        name: str,
        subject: str,
        default: str | None,
        known: Sequence[str],
        source: Source = "assumed",
    ) -> str:
        """Return one of the `known` values of a property.

        `source` is where the default comes from. Without a default, raises UndeterminedError if the
        user did not set the property.
        """
        given = self._given(name)
        if given is not None and given not in known:
            raise ImportOptionError(
                f"{setting(name, given)}: expected {', '.join(known[:-1])} or {known[-1]}"
            )
        value = given or default
        if value is None:
            raise UndeterminedError.of(name, subject, known)
        alternatives = tuple(each for each in known if each != value)
        self.note(Assumption(name, subject, value, "option" if given else source, alternatives))
        return value

    def value(
        self,
        name: str,
        subject: str,
        default: T,
        parse: Callable[[str], T],
        expected: str,
        show: Callable[[T], str] = str,
        alternatives: Sequence[T] = (),
        source: Source = "assumed",
    ) -> T:
        """Return a property that `parse` reads, which raises ValueError for invalid text.

        `expected` describes valid values, and `show` is the inverse of `parse`.
        """
        given = self._given(name)
        value = default
        if given is not None:
            try:
                value = parse(given)
            except ValueError as error:
                raise ImportOptionError(f"{setting(name, given)}: expected {expected}") from error
        others = tuple(show(each) for each in alternatives if each != value)
        chosen: Source = source if given is None else "option"
        self.note(Assumption(name, subject, show(value), chosen, others))
        return value

    def number(
        self, name: str, subject: str, default: float, alternatives: Sequence[float] = ()
    ) -> float:
        """Return a property that is a number of at least 0."""
        return self.value(
            name, subject, default, _number, "a number of at least 0", "{:g}".format, alternatives
        )

    def value_range(
        self, name: str, subject: str, default: tuple[float, float]
    ) -> tuple[float, float]:
        """Return the values of black and white."""
        ranges = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
        return self.value(
            name, subject, default, parse_range, "the values of black and white, such as -1,1 or "
            "0,1 or 0,255", lambda each: ",".join(f"{v:g}" for v in each), ranges,
        )  # fmt: skip


def parse_range(text: str) -> tuple[float, float]:
    """Parse the values of black and white, such as ``-1,1``. Raises ValueError."""
    low, high = (float(each) for each in text.split(","))
    if not low < high < float("inf") or low == -float("inf"):
        raise ValueError
    return low, high


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value
