"""A table of tensors by name that records which tensors of the file a converter has read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

# Counters that training code stores along with weights. They do not change any image.
_COUNTERS = ("num_batches_tracked", "n_averaged", "initted", "step", "num_updates", "global_step")


@dataclass(frozen=True)
class _Entry:
    """A tensor, and the names of the tensors in the file that it was computed from."""

    tensor: Tensor
    origins: tuple[str, ...]


class TensorTable(Mapping[str, Tensor]):
    """Tensors by name, in the order of the file.

    Reading a tensor is recorded; looking at names, or at a tensor with `peek`, is not. Tables that
    are derived from a table share its record, so that `unread` knows what was left out at the end.
    """

    def __init__(self, entries: Mapping[str, _Entry], read: set[str]) -> None:
        self._entries = entries
        self._read = read

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> TensorTable:
        """Return a table of the tensors in a file. Nothing has been read yet."""
        if isinstance(tensors, TensorTable):
            return tensors
        return cls({name: _Entry(tensor, (name,)) for name, tensor in tensors.items()}, set())

    def fresh(self) -> TensorTable:
        """Return a copy with an empty record."""
        return TensorTable(self._entries, set())

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        self._read.update(entry.origins)
        return entry.tensor

    # Compared by identity: comparing values would read them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, name: str) -> Tensor | None:
        """Return a tensor without recording that it was read; None if there is none."""
        entry = self._entries.get(name)
        return None if entry is None else entry.tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: tuple(entry.tensor.shape) for name, entry in self._entries.items()}

    def within(self, prefix: str) -> TensorTable:
        """Return the tensors under a prefix, without the prefix."""
        start = f"{prefix}." if prefix else ""
        return TensorTable(
            {
                name.removeprefix(start): entry
                for name, entry in self._entries.items()
                if name.startswith(start)
            },
            self._read,
        )

    def select(self, names: Mapping[str, str]) -> TensorTable:
        """Return some of the tensors. `names` maps new names to names in this table."""
        return TensorTable({new: self._entries[old] for new, old in names.items()}, self._read)

    def without(self, names: Iterable[str]) -> TensorTable:
        """Return the table without some tensors."""
        excluded = set(names)
        return self.select({name: name for name in self._entries if name not in excluded})

    def derive(self, entries: Iterable[tuple[str, tuple[str, ...], Tensor]]) -> TensorTable:
        """Return computed tensors: each with its name and the names in this table it comes from."""
        return TensorTable(
            {
                name: _Entry(tensor, tuple(o for s in sources for o in self._entries[s].origins))
                for name, sources, tensor in entries
            },
            self._read,
        )

    def map(self, function: Callable[[str, Tensor], Tensor]) -> TensorTable:
        """Return the table with a function applied to each tensor, which is not yet a reading."""
        return TensorTable(
            {
                name: _Entry(function(name, entry.tensor), entry.origins)
                for name, entry in self._entries.items()
            },
            self._read,
        )

    def floats(self) -> TensorTable:
        """Return the table with floating-point tensors as float32."""
        return self.map(lambda _, each: each.float() if each.is_floating_point() else each)

    def unread(self) -> list[str]:
        """Return the names in the file of all tensors that were not read, except counters."""
        names = (name for entry in self._entries.values() for name in entry.origins)
        return [name for name in names if name not in self._read and not is_counter(name)]

    def origins(self, name: str) -> tuple[str, ...]:
        """Return the names in the file that a tensor comes from."""
        return self._entries[name].origins


def is_counter(name: str) -> bool:
    """True for the name of a counter, such as ``num_batches_tracked`` of a batch normalization."""
    return name.rpartition(".")[2] in _COUNTERS
