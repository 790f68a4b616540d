"""Upscalers that were exported for one image size."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from scipy.ndimage import convolve

from service.runtime.image_to_image import prepare, translate
from service.runtime.images.decoding import DecodedImage
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.import_model import ImportTarget, import_model
from training.importers.onnx.conversion import OnnxFormat, convert_graph
from training.importers.onnx.free_size import matching_axes
from training.importers.onnx.ports import GraphOptions
from training.importers.options import UserOptions

# A convolution with 4 outputs, and the pixel shuffle of PyTorch's exporter with constant shapes.
SHUFFLED = """
up (float[{n},1,{h},{w}] low) => (float[{n},1,{h2},{w2}] high) {{
    features = Conv <pads = [1, 1, 1, 1]> (low, kernel)
    {step}
    split = Reshape (changed, apart)
    turned = Transpose <perm = [0, 1, 4, 2, 5, 3]> (split)
    high = Reshape (turned, joined)
}}"""
KERNEL = np.zeros((4, 1, 3, 3), np.float32)
KERNEL[0, 0, 1, 1] = 1
KERNEL[1, 0] = 1 / 9
KERNEL[2, 0, 1] = 1 / 3
KERNEL[3, 0, 1, 2] = 1


def upscaled(pixels):
    """Return what `SHUFFLED` makes of an image ``[h, w]`` without a step."""
    planes = [convolve(pixels.astype(float), k[0, ::-1, ::-1], mode="constant") for k in KERNEL]
    h, w = pixels.shape
    return np.stack(planes).reshape(2, 2, h, w).transpose(2, 0, 3, 1).reshape(2 * h, 2 * w)


def write(folder, text, *, opset=17, **weights):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n' + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, folder / "up.onnx")
    return folder / "up.onnx"


def shuffled(folder, height, width, *, n=1, step="changed = Identity (features)", **weights):
    text = SHUFFLED.format(n=n, h=height, w=width, h2=2 * height, w2=2 * width, step=step)
    return write(
        folder,
        text,
        kernel=KERNEL,
        apart=np.array([-1, 1, 2, 2, height, width]),
        joined=np.array([-1, 1, 2 * height, 2 * width]),
        **weights,
    )


def imported(path, folder, **options):
    converted = convert_graph(path, GraphOptions(**({"range": (0, 1)} | options)))
    written = import_model(path, OnnxFormat(), converted, ImportTarget(folder / "models", "m"))
    plan = ExecutionPlan(workers=1, threads=1, max_rows=8)
    return dict(converted.details), Model(written, Provider.CPU, plan)


def gray(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 1), np.uint8)
    return DecodedImage(image.repeat(3, 2), None)


@pytest.mark.parametrize(("size", "n"), [((16, 16), 1), ((16, 16), "N"), ((12, 20), 1)])
def test_frees_height_and_width(tmp_path, size, n):
    details, model = imported(shuffled(tmp_path, *size, n=n), tmp_path)
    assert details["size"].startswith("any; the graph was exported for ")
    assert "luma" in details["color"]
    spec = model.manifest.input
    assert (model.manifest.task, spec.fixed, spec.factor, spec.multiple) == ("upscale", False, 2, 1)
    assert 1 <= spec.reach <= 3
    for shape in (size, (7, 31), (40, 9)):
        image = gray(*shape)
        output = translate(model, image)[..., 0]
        assert np.abs(output - upscaled(image.pixels[..., 0]).clip(0, 255)).max() <= 1


def test_runs_in_tiles_if_the_size_cannot_be_freed(tmp_path):
    step = "changed = Mul (features, every_pixel)"
    path = shuffled(tmp_path, 16, 20, step=step, every_pixel=np.ones((1, 1, 16, 20), np.float32))
    details, model = imported(path, tmp_path)
    assert details["size"] == "tiles of 20×16, the only size that the graph takes"
    spec = model.manifest.input
    assert (spec.fixed, spec.size, spec.factor) == (True, (16, 20), 2)
    assert 1 <= spec.reach <= 3
    for shape in ((16, 20), (5, 4), (61, 50)):
        image = gray(*shape)
        assert prepare(model, image).tiling.shape == (16, 20)
        output = translate(model, image)[..., 0]
        expected = upscaled(image.pixels[..., 0]).clip(0, 255)
        assert output.shape == expected.shape
        # The last tiles continue with the reflected image.
        inner = (slice(0, 2 * shape[0] - 2), slice(0, 2 * shape[1] - 2))
        assert np.abs(output - expected)[inner].max() <= 1


def test_blends_tiles_that_depend_on_the_whole_image(tmp_path):
    step = "mean = GlobalAveragePool (features)\n    changed = Sub (features, mean)"
    details, model = imported(shuffled(tmp_path, 16, 16, step=step), tmp_path, range=(-1, 1))
    assert "seams may remain" in details["size"]
    spec = model.manifest.input
    assert (spec.fixed, spec.side, spec.width, spec.reach) == (True, 16, None, None)
    assert translate(model, gray(30, 50)).shape == (60, 100, 1)


def test_frees_channels_last_and_downsampling(tmp_path):
    text = """
    up (float[1,32,32,3] low) => (float[1,64,64,3] high) {
        turned = Transpose <perm = [0, 3, 1, 2]> (low)
        small = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (turned)
        large = Resize <mode = "nearest"> (small, , , sizes)
        high = Transpose <perm = [0, 2, 3, 1]> (large)
    }"""
    path = write(tmp_path, text, sizes=np.array([1, 3, 64, 64]))
    _, model = imported(path, tmp_path, range=(0, 255), layout="nhwc")
    spec = model.manifest.input
    assert (spec.fixed, spec.factor, spec.multiple, spec.channels) == (False, 2, 2, 3)
    image = np.random.default_rng(0).integers(0, 256, (10, 70, 3), np.uint8)
    output = translate(model, DecodedImage(image, None))
    means = image.reshape(5, 2, 35, 2, 3).mean((1, 3))
    assert np.abs(output - means.repeat(4, 0).repeat(4, 1)).max() <= 1


def test_frees_sizes_that_the_graph_computes(tmp_path):
    """Exporters leave computations of constants in the graph."""
    text = """
    up (float[1,1,16,16] low) => (float[1,1,32,32] high) {
        shape = Shape (low)
        start = Slice (shape, from, to)
        sizes = Concat <axis = 0> (start, sides)
        high = Resize <mode = "nearest"> (low, , , sizes)
    }"""
    constants = {"from": np.array([0]), "to": np.array([2]), "sides": np.array([32, 32])}
    _, model = imported(write(tmp_path, text, **constants), tmp_path)
    assert not model.manifest.input.fixed
    image = gray(20, 9)
    expected = image.pixels[..., :1].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(translate(model, image), expected)


def test_frees_windows_that_are_longer_than_their_number(tmp_path):
    text = """
    up (float[1,1,16,16] low) => (float[1,1,32,32] high) {
        windows = Reshape (low, apart)
        turned = Transpose <perm = [0, 1, 3, 5, 2, 4]> (windows)
        flat = Reshape (turned, stacked)
        mixed = Conv (flat, kernel)
        high = DepthToSpace <blocksize = 16> (mixed)
    }"""
    kernel = np.zeros((16, 16, 8, 8, 1, 1), np.float32)
    for u, v in np.ndindex(16, 16):
        kernel[u, v, u // 2, v // 2] = 1
    path = write(
        tmp_path,
        text,
        apart=np.array([1, 1, 2, 8, 2, 8]),
        stacked=np.array([1, 64, 2, 2]),
        kernel=kernel.reshape(256, 64, 1, 1),
    )
    _, model = imported(path, tmp_path)
    assert (model.manifest.input.fixed, model.manifest.input.multiple) == (False, 8)
    image = gray(30, 41)
    expected = image.pixels[..., :1].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(translate(model, image), expected)


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_carries_color_over_in_every_range(tmp_path, value_range):
    _, model = imported(shuffled(tmp_path, 16, 16), tmp_path, range=value_range)
    color = np.full((30, 50, 3), (200, 40, 90), np.uint8)
    output = translate(model, DecodedImage(color, None))
    assert output.shape == (60, 100, 3)
    assert np.abs(output[4:-4, 4:-4].astype(int) - color[0, 0]).max() <= 2


def test_other_tasks_resize_to_the_fixed_size(tmp_path):
    text = "same (float[1,3,12,20] image) => (float[1,3,12,20] out) { out = Sigmoid (image) }"
    details, model = imported(write(tmp_path, text), tmp_path)
    assert "size" not in details
    assert (model.manifest.task, model.manifest.input.size) == ("translate", (12, 20))
    assert (model.manifest.image_spec.height, model.manifest.image_spec.width) == (12, 20)
    prepared = prepare(model, gray(30, 40))
    assert prepared.parameters == {"resized_input": {"from": (40, 30), "to": (20, 12)}}
    assert translate(model, gray(30, 40)).shape == (12, 20, 3)


def test_denoiser_as_upscaler_keeps_the_size(tmp_path):
    text = "same (float[1,1,16,16] image) => (float[1,1,16,16] out) { out = Neg (image) }"
    path = write(tmp_path, text)
    details, model = imported(path, tmp_path, range=(-1, 1), task="upscale")
    assert details["size"].startswith("any")
    assert model.manifest.input.factor == 1
    image = gray(40, 23)
    np.testing.assert_array_equal(translate(model, image)[..., 0], 255 - image.pixels[..., 0])


def test_side_of_a_freed_graph_is_an_option(tmp_path):
    _, model = imported(shuffled(tmp_path, 16, 16), tmp_path, common=UserOptions(side=24))
    assert model.manifest.input.side == 24


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((2, 9, 7, 7), (2, 1, 3, 3, 7, 7), [((0,), (0,)), ((1,), (1, 2, 3))]),
        ((2, 1, 7, 3, 7, 3), (2, 1, 21, 21), [((0,), (0,)), ((1,), (1,)), ((2, 3), (2,))]),
        ((4, 6), (2, 12), [((0, 1), (0, 1))]),
        ((6,), (6, 1, 1), [((0,), (0,)), ((), (1, 2))]),
        ((1, 1), (), [((0, 1), ())]),
    ],
)
def test_matches_axes_of_a_reshape(before, after, groups):
    assert matching_axes(before, after)[: len(groups)] == groups


@pytest.mark.parametrize(("before", "after"), [((2, 3), (5,)), ((0, 3), (0,))])
def test_axes_without_equal_products_do_not_match(before, after):
    assert matching_axes(before, after) is None
