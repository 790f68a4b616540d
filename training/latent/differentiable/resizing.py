"""Operators that change the resolution of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from training.latent.differentiable.registry import Node, axes_of, integers, operator


@operator("Resize")
def resize(
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resize axes: nearest neighbor, linear or cubic, in every coordinate transformation.

    Raises ValueError for a crop (`tf_crop_and_resize`) and for a kept aspect ratio.
    """
    if node.opset < 11 and scales is None:
        # The only other input of the first version is the scales.
        roi, scales = None, roi
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("keep_aspect_ratio_policy is not supported")
    factors = None if scales is None or not scales.numel() else scales.tolist()
    given = axes_of(node, None)
    axes = list(range(x.dim())) if given is None else [axis % x.dim() for axis in given]
    targets = integers(sizes)
    coordinates = node.get(
        "coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric"
    )
    for i, axis in enumerate(axes):
        before = x.shape[axis]
        if targets is not None:
            after, scale = targets[i], targets[i] / before
        elif factors is not None:
            after, scale = int(before * factors[i] + 1e-6), factors[i]
        else:
            raise ValueError("it has neither scales nor sizes")
        if after == before and scale == 1:
            continue
        if coordinates == "tf_crop_and_resize":
            raise ValueError(f"{coordinates} is not supported")
        x = _resize_axis(node, x, axis, after, scale, coordinates)
    return x


@operator("Upsample")
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Upsample axes, as Resize with asymmetric coordinates and floor."""
    factors = node.get("scales") if scales is None else scales.tolist()
    options = {
        "mode": node.get("mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    resized = Node("Resize", node.name, options, 1, 11)
    output = resize(resized, x, None, torch.tensor(factors))
    assert isinstance(output, Tensor)  # noqa: S101 - for the type checker
    return output


def _resize_axis(
    node: Node, x: Tensor, axis: int, after: int, scale: float, coordinates: str
) -> Tensor:
    before, mode = x.shape[axis], node.get("mode", "nearest")
    if mode == "nearest":
        rounding = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        places = _nearest(before, after, scale, coordinates, rounding)
        factor = after // before
        if places == tuple(i // factor if factor else -1 for i in range(after)):
            # Repeating has a faster gradient than selecting.
            return x.repeat_interleave(factor, axis)
        return x.index_select(axis, torch.tensor(places, device=x.device))
    matrix = _interpolation(
        before,
        after,
        scale,
        coordinates,
        None if mode == "linear" else float(node.get("cubic_coeff_a", -0.75)),
        antialias=bool(node.get("antialias", 0)),
        exclude_outside=bool(node.get("exclude_outside", 0)),
    ).to(x)
    return torch.matmul(x.movedim(axis, -1), matrix.t()).movedim(-1, axis)


def _positions(before: int, after: int, scale: float, coordinates: str) -> Tensor:
    """Return the coordinate in the input of each output pixel."""
    i = torch.arange(after, dtype=torch.float64)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        if coordinates == "pytorch_half_pixel" and after == 1:
            return torch.zeros_like(i)
        return (i + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        adjustment = after / (scale * before)
        return before / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    if coordinates == "align_corners":
        return i * (before - 1) / (after - 1) if after > 1 else torch.zeros_like(i)
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    raise ValueError(f"the coordinate transformation {coordinates} is not supported")


@lru_cache(maxsize=256)
def _nearest(
    before: int, after: int, scale: float, coordinates: str, rounding: str
) -> tuple[int, ...]:
    positions = _positions(before, after, scale, coordinates)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    }
    rounded = functions[rounding](positions)
    return tuple(int(each) for each in rounded.clamp(0, before - 1).tolist())


@lru_cache(maxsize=256)
def _interpolation(
    before: int,
    after: int,
    scale: float,
    coordinates: str,
    cubic: float | None,
    *,
    antialias: bool,
    exclude_outside: bool,
) -> Tensor:
    """Return the matrix ``[after, before]`` of linear or cubic interpolation along an axis.

    Values outside repeat the edge, unless they are excluded.
    """
    positions = _positions(before, after, scale, coordinates)
    stretch = max(1 / scale, 1.0) if antialias else 1.0
    reach = int(stretch * (2 if cubic is not None else 1)) + 2
    base = torch.floor(positions).long()
    offsets = torch.arange(-reach, reach + 1)
    places = base[:, None] + offsets[None, :]
    distances = (places - positions[:, None]).abs() / stretch
    if cubic is None:
        weights = (1 - distances).clamp(min=0)
    else:
        d, a = distances, cubic
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weights = torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
    if exclude_outside:
        weights = torch.where((places < 0) | (places >= before), 0.0, weights)
    if antialias or exclude_outside:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(after, before, dtype=torch.float64)
    return matrix.scatter_add(1, places.clamp(0, before - 1), weights)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Move channels into blocks of pixels."""
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    blocks = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Move blocks of pixels into channels."""
    block = node.get("blocksize")
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * block**2, h // block, w // block)


@operator("GridSample")
def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """Sample images at given coordinates."""
    modes = {"linear": "bilinear", "cubic": "bicubic"}
    mode = node.get("mode", "linear")
    return F.grid_sample(
        x,
        grid,
        modes.get(mode, mode),
        node.get("padding_mode", "zeros"),
        bool(node.get("align_corners", 0)),
    )


@operator("AffineGrid")
def affine_grid(node: Node, theta: Tensor, sizes: Tensor) -> Tensor:
    """Return the coordinates of an affine transformation, for GridSample."""
    return F.affine_grid(theta, integers(sizes) or [], bool(node.get("align_corners", 0)))
