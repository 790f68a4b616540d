import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.runtime.images.tiling import Canvas, cut, plan

RNG = np.random.default_rng(0)


class ExactLocalModel:
    """A model in which an output pixel depends on exactly the input pixels within `reach`.

    The output is the sum modulo 256 of the neighborhood, with an odd weight for each neighbor, so
    that changing any of them by one level changes the result. The border is padded with zeros, as
    in most convolutions. The result also depends on the position modulo `multiple`, as in a model
    with strided layers, and on the position inside an upscaled pixel.
    """

    def __init__(self, reach: int, multiple: int = 1, scale: int = 1) -> None:
        self.reach, self.multiple, self.scale = reach, multiple, scale
        kernel = 2 * reach + 1
        rng = np.random.default_rng(reach)
        self.weights = rng.integers(0, 128, (kernel, kernel), np.uint8) * 2 + 1

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        _, h, w, _ = tiles.shape
        assert h % self.multiple == 0
        assert w % self.multiple == 0
        r = self.reach
        padded = np.pad(tiles, ((0, 0), (r, r), (r, r), (0, 0)))
        total = np.zeros_like(tiles)
        for dy in range(2 * r + 1):
            for dx in range(2 * r + 1):
                total += padded[:, dy : dy + h, dx : dx + w] * self.weights[dy, dx]
        y, x = np.mgrid[:h, :w] % self.multiple
        total *= (2 * (y * self.multiple + x) + 1).astype(np.uint8)[..., None]
        large = total.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
        y, x = np.mgrid[: h * self.scale, : w * self.scale] % self.scale
        return large + (16 * y + 5 * x).astype(np.uint8)[..., None]


def tiled(image, model, tiling, batch=3):
    """Run a model on an image, a few tiles at a time."""
    canvas = Canvas(tiling, image.shape[2])
    for start in range(0, len(tiling), batch):
        indices = range(start, min(start + batch, len(tiling)))
        for index, tile in zip(indices, model(cut(image, tiling, indices)), strict=True):
            canvas.put(index, tile)
    return canvas.image()


def untiled(image, model, multiple, scale):
    """Run a model on a whole image, padded to a multiple."""
    height, width, _ = image.shape
    below, right = -height % multiple, -width % multiple
    for axis, more in enumerate((below, right)):
        frame = [(0, more if axis == other else 0) for other in range(3)]
        mode = "reflect" if more < image.shape[axis] else "edge"
        image = np.pad(image, frame, mode=mode)
    return model(image[None])[0][: height * scale, : width * scale]


def grids(draw):
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    reach = draw(st.integers(0, 4))
    overlap = 2 * reach + draw(st.integers(0, 6))
    least = -(-overlap // multiple) * multiple + multiple
    side = least + multiple * draw(st.integers(0, 24 // multiple))
    scale = draw(st.sampled_from([1, 2, 4]))
    sizes = st.one_of(
        st.integers(1, 90),
        st.sampled_from([1, 2, 3, 31, 53, 89, side - 1, side, side + 1, 2 * side - overlap + 1]),
    )
    height, width = (max(1, draw(sizes)) for _ in range(2))
    options = {"side": side, "overlap": overlap, "multiple": multiple, "scale": scale}
    return height, width, {**options, "reach": reach}


GRIDS = st.composite(grids)()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(GRIDS)
@example((1, 1, {"side": 16, "overlap": 4, "multiple": 8, "scale": 4, "reach": 2})).via("one pixel")
def test_tiled_output_equals_untiled_output(grid):
    height, width, options = grid
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    model = ExactLocalModel(options["reach"], options["multiple"], options["scale"])
    output = tiled(image, model, plan(height, width, **options))
    expected = untiled(image, model, options["multiple"], options["scale"])
    np.testing.assert_array_equal(output, expected)


def test_output_differs_if_reach_is_too_small():
    image = RNG.integers(0, 256, (60, 60, 1), np.uint8)
    model = ExactLocalModel(3)
    expected = untiled(image, model, 1, 1)
    for reach, equal in [(3, True), (2, False), (0, False)]:
        output = tiled(image, model, plan(60, 60, side=24, overlap=6, reach=reach))
        assert np.array_equal(output, expected) == equal


@settings(max_examples=300, deadline=None)
@given(GRIDS)
def test_tiles_cover_image_with_minimal_overlap(grid):
    height, width, options = grid
    tiling = plan(height, width, **options)
    multiple, side = options["multiple"], options["side"]
    for starts, tile, length in zip(
        (tiling.tops, tiling.lefts), tiling.shape, (height, width), strict=True
    ):
        padded_length = -(-length // multiple) * multiple
        assert starts[0] == 0
        assert starts[-1] + tile == padded_length
        assert tile % multiple == 0
        assert tile <= side
        assert all(start % multiple == 0 for start in starts)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (tile - steps >= options["overlap"]).all()
        assert (len(starts) == 1) == (padded_length <= side)
        # One tile fewer, or shorter tiles, would not cover the image.
        shared = -(-options["overlap"] // multiple) * multiple
        count = len(starts)
        assert count == 1 or (count - 1) * (side - shared) + shared < padded_length
        assert count * (tile - multiple - shared) + shared < padded_length
    assert len(tiling.boxes) == len(tiling) == len(tiling.tops) * len(tiling.lefts)
    indices = list(range(len(tiling)))[::2]
    tiles = cut(np.zeros((height, width, 2), np.float32), tiling, indices)
    assert tiles.shape == (len(indices), *tiling.shape, 2)
    assert tiles.dtype == np.float32


def test_small_image_is_one_tile():
    tiling = plan(30, 41, side=64, overlap=16, multiple=8, scale=2)
    assert tiling.shape == (32, 48)
    assert tiling.boxes == [(0, 0)]


def test_pads_by_reflection_or_edge():
    image = np.arange(5, dtype=np.uint8)[:, None, None] + np.zeros((1, 3, 1), np.uint8)
    (tile,) = cut(image, plan(5, 3, side=8, overlap=0, multiple=8), [0])
    np.testing.assert_array_equal(tile[:, 0, 0], [0, 1, 2, 3, 4, 3, 2, 1])
    (tile,) = cut(image[:4], plan(4, 3, side=8, overlap=0, multiple=8), [0])
    np.testing.assert_array_equal(tile[:, 0, 0], [0, 1, 2, 3, 3, 3, 3, 3])
    (tile,) = cut(image[4:, :1], plan(1, 1, side=8, overlap=0, multiple=8), [0])
    assert (tile == 4).all()


def test_blends_overlap_linearly():
    tiling = plan(8, 28, side=16, overlap=4, scale=2)
    assert tiling.boxes == [(0, 0), (0, 12)]
    canvas = Canvas(tiling, 1)
    canvas.put(0, np.full((16, 32, 1), 0, np.uint8))
    canvas.put(1, np.full((16, 32, 1), 160, np.uint8))
    ramp = [10, 30, 50, 70, 90, 110, 130, 150]
    expected = [0] * 24 + ramp + [160] * 24
    np.testing.assert_array_equal(canvas.image()[..., 0], np.tile(expected, (16, 1)))


def test_ignores_pixels_within_reach_of_inner_edge():
    tiling = plan(28, 8, side=16, overlap=4, reach=2)
    canvas = Canvas(tiling, 1)
    first, second = np.full((2, 16, 8, 1), 7, np.uint8)
    first[-2:] = second[:2] = 255
    canvas.put(0, first)
    canvas.put(1, second)
    assert (canvas.image() == 7).all()


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.integers(0, 2**32))
def test_blend_stays_within_tile_values(grid, seed):
    height, width, options = grid
    tiling = plan(height, width, **options)
    rng = np.random.default_rng(seed)
    canvas = Canvas(tiling, 1)
    shape = (*(length * tiling.scale for length in tiling.shape), 1)
    for index in range(len(tiling)):
        canvas.put(index, rng.integers(100, 110, shape, np.uint8))
    assert canvas.image().min() >= 100
    assert canvas.image().max() < 110


@pytest.mark.parametrize(
    "invalid",
    [
        {"height": 0}, {"width": 0}, {"scale": 0}, {"multiple": 0}, {"overlap": -1}, {"reach": -1},
        {"reach": 5}, {"side": 30}, {"side": 8}, {"overlap": 32}, {"overlap": 29},
    ],
)  # fmt: skip
def test_rejects_invalid_tiling(invalid):
    valid = {"height": 99, "width": 99, "side": 32, "overlap": 8, "multiple": 4, "scale": 2}
    plan(**valid)
    options = {**valid, **invalid}
    with pytest.raises(ValueError, match=r"positive|receptive|multiple"):
        plan(options.pop("height"), options.pop("width"), **options)


def test_canvas_requires_every_tile_in_order():
    tiling = plan(20, 20, side=16, overlap=4)
    tile = np.zeros((*tiling.shape, 3), np.uint8)
    canvas = Canvas(tiling, 3)
    with pytest.raises(ValueError, match="expected tile 0 of 4, got tile 1"):
        canvas.put(1, tile)
    for invalid in (tile[1:], tile[..., :1], tile.astype(np.float32)):
        with pytest.raises(ValueError, match=r"expected a tile of \(.*\) uint8, got"):
            canvas.put(0, invalid)
    canvas.put(0, tile)
    with pytest.raises(ValueError, match="expected tile 1 of 4, got tile 0"):
        canvas.put(0, tile)
    with pytest.raises(ValueError, match="only 1 of 4 tiles were added"):
        canvas.image()
    for index in (1, 2, 3):
        canvas.put(index, tile)
    with pytest.raises(ValueError, match="tile 4"):
        canvas.put(4, tile)
    assert canvas.image().shape == (20, 20, 3)
    with pytest.raises(ValueError, match="does not fit a tiling of"):
        cut(np.zeros((20, 21, 3), np.uint8), tiling, [0])


def upscaler() -> onnxruntime.InferenceSession:
    """A network that downscales, convolves and upscales ``[N, H, W, 3]`` to ``[N, 2H, 2W, 3]``.

    The receptive field radius is 7 pixels: 1 each for the first and the strided convolution, 2 each
    for the two at half resolution, and 1 inside a pixel of that resolution.
    """
    rng = np.random.default_rng(3)

    def conv(name, outputs, inputs, value, output, **attributes):
        weights = rng.normal(0, (inputs * 9) ** -0.5, (outputs, inputs, 3, 3)).astype(np.float32)
        parts.append(numpy_helper.from_array(weights, name))
        return helper.make_node("Conv", [value, name], [output], pads=[1] * 4, **attributes)

    parts: list[onnx.TensorProto] = []
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        conv("a", 8, 3, "planes", "a-out"),
        node("Relu", ["a-out"], ["a-on"]),
        conv("b", 16, 8, "a-on", "b-out", strides=[2, 2]),
        node("Relu", ["b-out"], ["b-on"]),
        conv("c", 16, 16, "b-on", "c-out"),
        node("Relu", ["c-out"], ["c-on"]),
        conv("d", 48, 16, "c-on", "d-out"),
        node("DepthToSpace", ["d-out"], ["large"], blocksize=4, mode="CRD"),
        node("Sigmoid", ["large"], ["unit"]),
        node("Mul", ["unit", "max_level"], ["levels"]),
        node("Round", ["levels"], ["integers"]),
        node("Cast", ["integers"], ["bytes"], to=TensorProto.UINT8),
        node("Transpose", ["bytes"], ["enlarged"], perm=[0, 2, 3, 1]),
    ]
    parts.append(numpy_helper.from_array(np.float32(255), "max_level"))
    graph = helper.make_graph(
        nodes,
        "upscaler",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("enlarged", TensorProto.UINT8, ["N", "H2", "W2", 3])],
        parts,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 97), (49, 48), (131, 89), (160, 113)])
def test_tiled_onnx_model_equals_untiled(size):
    session = upscaler()

    def model(tiles):
        (output,) = session.run(None, {"pixels": tiles})
        return output

    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    output = tiled(image, model, plan(*size, side=48, overlap=14, multiple=2, scale=2, reach=7))
    expected = untiled(image, model, 2, 2)
    assert expected.std() > 10
    # Float sums may be reordered, which changes few pixels, by one level.
    difference = np.abs(output.astype(int) - expected)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= difference.size / 1000


def peak_memory_without_output(tiling, height, width) -> int:
    """Return the peak memory in bytes, without the output image."""
    row = RNG.integers(0, 256, (1, width, 3), np.uint8)
    image = np.broadcast_to(row, (height, width, 3))

    def model(tiles):
        return tiles.repeat(tiling.scale, axis=1).repeat(tiling.scale, axis=2)

    tracemalloc.start()
    try:
        output = tiled(image, model, tiling, batch=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(output[5], row[0].repeat(tiling.scale, axis=0))
    return peak - output.nbytes


def test_memory_does_not_grow_with_row_count():
    options = {"side": 64, "overlap": 16, "scale": 4, "reach": 4}
    width = 300
    short, long = (
        peak_memory_without_output(plan(height, width, **options), height, width)
        for height in (300, 3000)
    )
    row_bytes = 64 * 4 * width * 4 * 3
    batch_bytes = 2 * 3 * (64 * 4) ** 2
    assert long < 1.05 * short + 2**16
    assert long < row_bytes + 4 * batch_bytes
    # A row of tiles grows with the width of the image; nothing else does.
    wide = peak_memory_without_output(plan(300, 3000, **options), 300, 3000)
    assert wide < 10 * row_bytes + 4 * batch_bytes + 2**20 + 16 * 3000 * 4 * 3 * 4 * 3
