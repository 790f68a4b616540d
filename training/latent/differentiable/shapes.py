"""Operators that rearrange values: shapes, slices, indices and padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.latent.differentiable.elementwise import torch_dtype
from training.latent.differentiable.registry import Node, axes_of, integers, operator

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


@operator("Shape")
def shape(node: Node, x: Tensor) -> Tensor:
    """Return the shape, or a part of it."""
    start, end = node.get("start", 0), node.get("end")
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def size(_: Node, x: Tensor) -> Tensor:
    """Return the number of values."""
    return torch.tensor(x.numel())


@operator("Constant")
def constant(node: Node) -> Tensor:
    """Return the value of an attribute."""
    for name, dtype in (
        ("value", None),
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        value = node.get(name)
        if isinstance(value, Tensor):
            return value
        if value is not None:
            return torch.tensor(value, dtype=dtype)
    raise ValueError("only dense tensors of numbers are supported")


@operator("ConstantOfShape")
def constant_of_shape(node: Node, sizes: Tensor) -> Tensor:
    """Return a tensor with one value everywhere; default: 0."""
    given = node.get("value")
    value: Tensor = torch.zeros(1) if given is None else given
    return value.reshape(()).repeat(integers(sizes) or [])


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    """Return ones on a diagonal."""
    dtype = torch_dtype(node.get("dtype")) if node.get("dtype") else x.dtype
    ones = torch.ones(x.shape, dtype=dtype, device=x.device)
    k = node.get("k", 0)
    return torch.triu(torch.tril(ones, k), k)


@operator("Range")
def arange(_: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Return numbers from `start` to `limit`."""
    first, last, step = start.item(), limit.item(), delta.item()
    return torch.arange(first, last, step, dtype=start.dtype, device=start.device)


@operator("OneHot")
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Return `values[1]` at the indices and `values[0]` elsewhere, along a new axis."""
    count = int(depth.item())
    hot = F.one_hot(indices.long() % count, count).bool()
    return torch.where(hot, values[1], values[0]).movedim(-1, node.get("axis", -1))


@operator("Reshape")
def reshape(node: Node, x: Tensor, sizes: Tensor) -> Tensor:
    """Reshape; 0 keeps an axis unless `allowzero` is set."""
    target = integers(sizes) or []
    if not node.get("allowzero", 0):
        target = [x.shape[i] if side == 0 else side for i, side in enumerate(target)]
    return x.reshape(target)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    """Return a matrix: the axes before one, and the others."""
    axis = node.get("axis", 1)
    axis = axis if axis >= 0 else axis + x.dim()
    rows = 1
    for side in x.shape[:axis]:
        rows *= side
    return x.reshape(rows, -1)


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    """Permute the axes; default: reverse them."""
    return x.permute(node.get("perm") or list(range(x.dim()))[::-1])


@operator("Squeeze")
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove axes of length 1."""
    chosen = axes_of(node, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@operator("Unsqueeze")
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Insert axes of length 1."""
    chosen = axes_of(node, axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(_: Node, x: Tensor, sizes: Tensor) -> Tensor:
    """Broadcast to a shape, in which 1 keeps an axis."""
    target = integers(sizes) or []
    rank = max(x.dim(), len(target))
    own = [1] * (rank - x.dim()) + list(x.shape)
    target = [1] * (rank - len(target)) + target
    return x.expand([a if b == 1 else b for a, b in zip(own, target, strict=True)])


@operator("Tile")
def tile(_: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(integers(repeats) or [])


@operator("Concat")
def concat(node: Node, *values: Tensor) -> Tensor:
    """Join along an axis."""
    return torch.cat(values, node.get("axis"))


@operator("Split")
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split along an axis: by sizes, or into equal parts of which the last may be smaller."""
    axis = node.get("axis", 0)
    parts = integers(sizes) or node.get("split")
    if parts is None:
        return torch.split(x, -(-x.shape[axis] // node.outputs), axis)
    return torch.split(x, list(parts), axis)


@operator("Slice")
def slice_axes(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice axes, from inputs or, in early operator sets, attributes."""
    first = integers(starts) or list(node.get("starts", []))
    last = integers(ends) or list(node.get("ends", []))
    chosen = axes_of(node, axes) or list(range(len(first)))
    strides = integers(steps) or [1] * len(first)
    for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
        rows = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, rows.start, len(rows))
        else:
            x = x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64, device=x.device))
    return x


@operator("Gather")
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Select entries of an axis; negative indices count from its end."""
    axis = node.get("axis", 0) % x.dim()
    if indices.dim() == 0:
        return x.select(axis, int(indices.item()))
    chosen = indices.long().to(x.device)
    chosen = torch.where(chosen < 0, chosen + x.shape[axis], chosen)
    selected = x.index_select(axis, chosen.reshape(-1))
    return selected.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Select one entry of an axis for every index."""
    axis = node.get("axis", 0)
    return x.gather(axis, indices.long() % x.shape[axis])


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Select entries by tuples of indices in the last axis. Without batch axes."""
    if node.get("batch_dims", 0):
        raise ValueError("batch_dims is not supported")
    return x[tuple(indices.long().unbind(-1))]


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a copy with entries replaced, by tuples of indices in the last axis."""
    if node.get("reduction", "none") not in ("none", "add"):
        raise ValueError(f"reduction {node.get('reduction')} is not supported")
    where = tuple(indices.long().unbind(-1))
    return x.index_put(where, updates, accumulate=node.get("reduction") == "add")


@operator("ScatterElements")
def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a copy with entries of an axis replaced, or added to."""
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    places = indices.long() % x.shape[axis]
    if reduction == "none":
        return x.scatter(axis, places, updates)
    if reduction == "add":
        return x.scatter_add(axis, places, updates)
    raise ValueError(f"reduction {reduction} is not supported")


@operator("Pad")
def pad(
    node: Node,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """Pad axes with a constant, by reflection, with the edge, or from the other side."""
    amounts = integers(pads) or list(node.get("pads", []))
    chosen = [axis % x.dim() for axis in axes_of(node, axes) or range(x.dim())]
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = amounts[i], amounts[len(chosen) + i]
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = float(value.item()) if value is not None else float(node.get("value", 0.0))
        flat = [each for axis in reversed(range(x.dim())) for each in (before[axis], after[axis])]
        return F.pad(x, flat, value=fill)
    if x.dim() == 4 and not any((*before[:2], *after[:2])) and mode in _PAD_MODES:
        return F.pad(x, (before[3], after[3], before[2], after[2]), _PAD_MODES[mode])
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            x = _pad_axis(x, axis, before[axis], after[axis], mode)
    return x


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    side = x.shape[axis]
    places = torch.arange(-before, side + after, device=x.device)
    if mode == "edge":
        places = places.clamp(0, side - 1)
    elif mode == "wrap":
        places = places % side
    elif mode == "reflect":
        period = max(2 * (side - 1), 1)
        places = places % period
        places = torch.where(places >= side, period - places, places)
    else:
        raise ValueError(f"the mode {mode} is not supported")
    return x.index_select(axis, places)
