"""Networks of ncnn: the layers against their definitions, whole models, and damaged files."""

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Provider, plan_for
from tests.support.checkpoint_layouts import ncnn
from training.importers.errors import ImportOptionError, ModelImportError
from training.importers.ncnn.conversion import NcnnNetwork, convert_network
from training.importers.ncnn.param import find_network, read_layers
from training.importers.ncnn.receptive_field import receptive_field
from training.importers.ncnn.registry import BUILDERS
from training.importers.ncnn.weights import WeightReader
from training.importers.options import UserOptions

RNG = np.random.default_rng(7)


def normal(*shape):
    return torch.from_numpy(RNG.normal(0, 0.3, shape).astype(np.float32))


def run(path, *images):
    network = NcnnNetwork(read_layers(path), WeightReader(path.with_suffix(".bin"))).eval()
    with torch.no_grad():
        return network(*images)


W = {"conv": normal(4, 3, 3, 3), "wide": normal(4, 3, 3, 5), "depth": normal(6, 1, 3, 3),
     "up": normal(4, 3, 4, 4), "bias": normal(4), "scale": normal(3), "shift": normal(3),
     "mean": normal(3), "variance": normal(3).abs() + 0.1, "inner": normal(3, 3), "one": normal(1),
     "constant": normal(1, 3, 8, 10)}  # fmt: skip
# By line of a layer from `x` to `y`: its weights in the file, and its definition.
LAYERS = {
    "Convolution l 1 1 x y 0=4 1=3 4=1 5=1 6=108": (
        [ncnn.float32(W["conv"]), ncnn.plain(W["bias"])],
        lambda x: F.conv2d(x, W["conv"], W["bias"], padding=1),
    ),
    "Convolution l 1 1 x y 0=4 1=3 2=2 3=2 4=1 14=2 15=3 16=0 6=108 9=2 -23310=1,0.2": (
        [ncnn.float32(W["conv"])],
        lambda x: F.leaky_relu(F.conv2d(F.pad(x, (1, 3, 2, 0)), W["conv"], None, 2, 0, 2), 0.2),
    ),
    "Convolution l 1 1 x y 0=4 1=5 11=3 4=-233 6=180 9=1": (
        [ncnn.float32(W["wide"])],
        lambda x: F.relu(F.conv2d(x, W["wide"], padding="same")),
    ),
    "ConvolutionDepthWise l 1 1 x y 0=6 1=3 4=1 6=54 7=3 9=3 -23310=2,-0.1,0.3": (
        [ncnn.float32(W["depth"])],
        lambda x: F.conv2d(x, W["depth"], padding=1, groups=3).clamp(-0.1, 0.3),
    ),
    "Deconvolution l 1 1 x y 0=4 1=4 3=2 4=1 5=1 6=192 9=4": (
        [ncnn.float32(W["up"]), ncnn.plain(W["bias"])],
        lambda x: F.conv_transpose2d(x, W["up"].transpose(0, 1), W["bias"], 2, 1).sigmoid(),
    ),
    "DeconvolutionDepthWise l 1 1 x y 0=3 1=3 3=2 4=1 6=27 7=3 18=1 19=1": (
        [ncnn.float32(W["depth"][:3])],
        lambda x: F.conv_transpose2d(x, W["depth"][:3], None, 2, 1, 1, 3),
    ),
    "BatchNorm l 1 1 x y 0=3 1=0.01": (
        [ncnn.plain(W[name]) for name in ("scale", "mean", "variance", "shift")],
        lambda x: F.batch_norm(
            x, W["mean"], W["variance"], W["scale"], W["shift"], eps=0.01
        ),
    ),
    "InstanceNorm l 1 1 x y 0=3 1=0.00001": (
        [ncnn.plain(W["scale"]), ncnn.plain(W["shift"])],
        lambda x: F.instance_norm(x, weight=W["scale"], bias=W["shift"]),
    ),
    "InstanceNorm l 1 1 x y 0=3 1=0.001 2=0": ([], lambda x: F.instance_norm(x, eps=0.001)),
    "Scale l 1 1 x y 0=3 1=1": (
        [ncnn.plain(W["scale"]), ncnn.plain(W["shift"])],
        lambda x: x * W["scale"][:, None, None] + W["shift"][:, None, None],
    ),
    "Bias l 1 1 x y 0=3": (
        [ncnn.plain(W["shift"])], lambda x: x + W["shift"][:, None, None]
    ),
    "PReLU l 1 1 x y 0=3": ([ncnn.plain(W["scale"])], lambda x: F.prelu(x, W["scale"])),
    "PReLU l 1 1 x y 0=1": ([ncnn.plain(W["one"])], lambda x: F.prelu(x, W["one"])),
    "ReLU l 1 1 x y": ([], F.relu),
    "ReLU l 1 1 x y 0=0.1": ([], lambda x: F.leaky_relu(x, 0.1)),
    "Clip l 1 1 x y 0=-0.5 1=0.25": ([], lambda x: x.clamp(-0.5, 0.25)),
    "Sigmoid l 1 1 x y": ([], torch.sigmoid),
    "TanH l 1 1 x y": ([], torch.tanh),
    "Swish l 1 1 x y": ([], lambda x: x * x.sigmoid()),
    "Mish l 1 1 x y": ([], lambda x: x * torch.tanh(torch.log1p(x.exp()))),
    "SELU l 1 1 x y": ([], F.selu),
    "ELU l 1 1 x y 0=0.7": ([], lambda x: F.elu(x, 0.7)),
    "GELU l 1 1 x y": ([], F.gelu),
    "GELU l 1 1 x y 0=1": ([], lambda x: F.gelu(x, approximate="tanh")),
    "HardSigmoid l 1 1 x y": ([], lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    "HardSwish l 1 1 x y": ([], lambda x: x * (0.2 * x + 0.5).clamp(0, 1)),
    "AbsVal l 1 1 x y": ([], torch.abs),
    "Dropout l 1 1 x y": ([], lambda x: x),
    "Noop l 1 1 x y": ([], lambda x: x),
    "BinaryOp l 1 1 x y 0=2 1=1 2=0.25": ([], lambda x: x * 0.25),
    "BinaryOp l 1 1 x y 0=7 1=1 2=1": ([], lambda x: 1 - x),
    "UnaryOp l 1 1 x y 0=4": ([], lambda x: x * x),
    "Interp l 1 1 x y 0=1 1=2.0 2=2.0": (
        [], lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    ),
    "Interp l 1 1 x y 0=2 1=2.0 2=2.0": (
        [], lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")
    ),
    "Interp l 1 1 x y 0=3 1=2.0 2=2.0": (
        [], lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")
    ),
    "Interp l 1 1 x y 0=2 1=1.0 2=1.0": ([], lambda x: x),
    "Reorg l 1 1 x y 0=2": (
        [], lambda x: x.reshape(2, 3, 4, 2, 5, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 4, 5)
    ),
    "Padding l 1 1 x y 0=1 1=2 2=3 3=4 4=2": ([], lambda x: F.pad(x, (3, 4, 1, 2), "reflect")),
    "Padding l 1 1 x y 0=1 1=0 2=0 3=1 4=0 5=0.5": (
        [], lambda x: F.pad(x, (0, 1, 1, 0), value=0.5)
    ),
    "Pooling l 1 1 x y 0=0 1=2 2=2 5=1": ([], lambda x: F.max_pool2d(x, 2)),
    "Pooling l 1 1 x y 0=1 4=1": ([], lambda x: x.mean((2, 3), keepdim=True)),
    "Crop l 1 1 x y 0=1 1=2 6=1 7=1": ([], lambda x: x[:, :, 2:-1, 1:-1]),
}  # fmt: skip
# Several layers from `x` to `y`.
GRAPHS = {
    "shuffled": (
        ["Convolution c 1 1 x a 0=4 1=3 4=1 6=108", "PixelShuffle s 1 1 a y 0=2"],
        [ncnn.float32(W["conv"])],
        lambda x: F.pixel_shuffle(F.conv2d(x, W["conv"], padding=1), 2),
    ),
    "attention": (
        [
            "Split s 1 2 x a b",
            "Pooling p 1 1 a c 0=1 4=1",
            "InnerProduct i 1 1 c d 0=3 2=9 9=4",
            "BinaryOp m 2 1 b d y 0=2",
        ],
        [ncnn.float32(W["inner"])],
        lambda x: x * (W["inner"] @ x.mean((2, 3)).T).sigmoid().T[:, :, None, None],
    ),
    "sums": (
        [
            "Split s 1 3 x a b c",
            "TanH t 1 1 b d",
            "Eltwise e 3 1 a d c y 0=1 -23301=3,1.0,0.5,-2.0",
        ],
        [],
        lambda x: 0.5 * torch.tanh(x) - x,
    ),
    "maximum": (
        ["Split s 1 2 x a b", "UnaryOp n 1 1 b c 0=1", "Eltwise e 2 1 a c y 0=2"], [], torch.abs,
    ),
    "constant": (
        ["MemoryData m 0 1 a 0=10 1=8 2=3", "BinaryOp b 2 1 x a y 0=1"],
        [ncnn.plain(W["constant"])],
        lambda x: x - W["constant"],
    ),
    "parts": (
        ["Slice s 1 3 x a b c -23300=3,-233,-233,-233 1=0", "Concat k 3 1 c a b y 0=-3"], [],
        lambda x: x[:, [2, 0, 1]],
    ),
    "rest": (
        ["Slice s 1 2 x a b -23300=2,1,-233 1=0", "Concat k 2 1 b a y 0=0"], [],
        lambda x: x[:, [1, 2, 0]],
    ),
}  # fmt: skip


def assert_computes(path, lines, weights, expected):
    ncnn.write_network(path, ["Input data 0 1 x", *lines], weights)
    x = normal(2, 3, 8, 10)
    torch.testing.assert_close(run(path, x), expected(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("line", LAYERS)
def test_layer_computes_its_definition(tmp_path, line):
    weights, expected = LAYERS[line]
    assert_computes(tmp_path / "n.param", [line], weights, expected)


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_computes_its_definition(tmp_path, name):
    assert_computes(tmp_path / "n.param", *GRAPHS[name])


def test_every_layer_has_a_test():
    lines = [*LAYERS, *(line for lines, _, _ in GRAPHS.values() for line in lines)]
    assert {line.split()[0] for line in lines} == BUILDERS.keys()


def test_weights_in_all_encodings(tmp_path):
    values = RNG.normal(0, 0.3, 256).astype(np.float32)
    indices = RNG.integers(0, 256, 108)
    weight = values[indices]
    for encoded, expected in (
        (ncnn.float32(weight), weight),
        (ncnn.fp16(weight), weight.astype(np.float16)),
        (ncnn.table(indices, values), weight),
        # Odd, so that it is padded.
        (ncnn.fp16(weight[:27]), weight[:27].astype(np.float16)),
    ):
        (tmp_path / "n.bin").write_bytes(encoded)
        reader = WeightReader(tmp_path / "n.bin")
        read = reader.weight(len(expected))
        reader.assert_complete()
        np.testing.assert_array_equal(read.numpy(), expected.astype(np.float32))


def expected_pixels(images, weights, factor):
    first, first_bias, slopes, last, last_bias = (
        torch.from_numpy(w.astype(np.float32)) for w in weights
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    y = F.prelu(F.conv2d(x, first, first_bias, padding=1), slopes)
    y = F.pixel_shuffle(F.conv2d(y, last, last_bias, padding=1), factor)
    y = y + x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return (y * 255).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()


def test_upscaler_is_imported(tmp_path):
    layers, encoded, weights = ncnn.upscaler(np.random.default_rng(3), encode=ncnn.fp16)
    path = ncnn.write_network(tmp_path / "up.param", layers, encoded)
    weights = [w.astype(np.float16) if w.ndim == 4 else w for w in weights]
    # Either file names the network.
    result = CliRunner().invoke(
        app, ["import", str(path.with_suffix(".bin")), "--models", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    folder = tmp_path / "up" / "1"
    manifest = read_manifest(folder)
    assert (manifest.task, manifest.input.factor, manifest.input.reach) == ("upscale", 2, 3)
    assert manifest.provenance.format == "ncnn"
    assert manifest.provenance.source_file == "up.bin"
    assert "black and white of the input: 0,1" in result.output
    images = RNG.integers(0, 256, (2, 21, 34, 3), dtype=np.uint8)
    model = Model(folder, Provider.CPU, plan_for(Provider.CPU))
    pixels = model.run("generator", {"image": images})["pixels"]
    assert np.abs(pixels.astype(int) - expected_pixels(images, weights, 2)).max() <= 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Convolution c 1 1 x y 0=4 1=5 4=2 6=300"], 4),
        (["Convolution c 1 1 x a 0=4 1=3 3=2 4=1 6=108", "PixelShuffle s 1 1 a y 0=2"], 6),
        (["Interp i 1 1 x a 0=1 1=2.0 2=2.0", "Convolution c 1 1 a y 0=4 1=3 4=1 6=108"], 2),
        (["Sigmoid s 1 1 x y"], 0),
        (["InstanceNorm n 1 1 x y 0=3 2=0"], None),
        (["Split s 1 2 x a b", "Concat c 2 1 a b y 0=0"], 0),
        (["Split s 1 2 x a b", "Concat c 2 1 a b y 0=1"], None),
        (["Split s 1 2 x a b", "Pooling p 1 1 a c 0=1 4=1", "BinaryOp m 2 1 b c y 0=2"], None),
    ],
)
def test_receptive_field_is_bounded(tmp_path, lines, expected):
    path = ncnn.write_network(tmp_path / "n.param", ["Input data 0 1 x", *lines])
    assert receptive_field(read_layers(path), "y") == expected


def test_explains_the_layers(tmp_path):
    layers, weights, _ = ncnn.upscaler(RNG)
    layers.insert(2, "Strange s 1 1 data_0 z")
    path = ncnn.write_network(tmp_path / "up.param", layers, weights)
    result = CliRunner().invoke(app, ["import", str(path), "--explain"])
    assert "Convolution × 2" in result.output
    assert "Strange × 1 (not supported)" in result.output


def broken_files(layers, weights):
    """Yield what is wrong, the layers, the content of the .bin file, and part of the message."""
    data = b"".join(weights)
    int8 = (0x000D4B38).to_bytes(4, "little") + data[4:]
    nan = data[:4] + np.float32("nan").tobytes() + data[8:]
    convolution = next(i for i, line in enumerate(layers) if line.startswith("Convolution"))

    def changed(old, new):
        return [line.replace(old, new) for line in layers]

    yield "short", layers, data[:-8], "ends before the weights"
    yield "long", layers, data + bytes(4), "4 bytes more"
    yield "int8", layers, int8, "int8 weights"
    yield "nan", layers, nan, "NaN or infinite"
    yield "layer", changed("PReLU", "LSTM"), data, "LSTM are not supported; export"
    yield "blob", changed("1 1 a b", "1 1 nothing b"), data, "takes nothing"
    yield "sizes", changed("6=162", "6=161"), data, "161 weights do not fit"
    yield "negative", changed("0=6 1=3", "0=-6 1=3"), data, "sizes must be positive"
    yield "huge", changed("0=6 1=3", "0=2000000000 1=3"), data, "do not fit"
    yield "inputs", ["Input other 0 1 other", *layers], data, "2 inputs (other, data)"
    yield "outputs", [*layers, "Split s 1 2 output p q"], data, "2 outputs (p, q)"
    yield (
        "line",
        [*layers[:convolution], "Convolution c x 1", *layers[convolution:]],
        data,
        "is not a layer",
    )
    yield "array", changed("4=1", "-23304=1,1"), data, "is an array, expected a number"
    yield "infinite", changed("4=1", "4=inf"), data, "is not a layer"
    yield "too large", changed("4=1", "4=1e30"), data, "expected an integer"
    slopes = [re.sub(r"^(PReLU .*) 0=\d+", r"\1 0=-233", line) for line in layers]
    yield "slopes", slopes, data, "weights of the shape -233"


@pytest.mark.parametrize("case", range(16))
def test_damaged_files_are_one_clear_error(tmp_path, case):
    layers, weights, _ = ncnn.upscaler(RNG)
    _, lines, data, message = list(broken_files(layers, weights))[case]
    lines = list(lines)
    path = tmp_path / "n.param"
    blobs = sum(int(f[3]) for f in map(str.split, lines) if f[3].isdecimal())
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]))
    path.with_suffix(".bin").write_bytes(data)
    with pytest.raises(ModelImportError) as raised:
        convert_network(path, UserOptions())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_weights_are_named(tmp_path):
    path = ncnn.write_network(tmp_path / "n.param", ["Input d 0 1 x", "ReLU r 1 1 x y"])
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelImportError, match=r"n\.bin does not exist: the weights of ncnn"):
        convert_network(path, UserOptions())


def test_network_that_crops_is_refused(tmp_path):
    lines = ["Input d 0 1 x", "Crop c 1 1 x y 0=2 1=2 6=2 7=2"]
    with pytest.raises(ModelImportError, match="crop a border"):
        convert_network(ncnn.write_network(tmp_path / "n.param", lines), UserOptions())


def test_options_without_effect_are_refused(tmp_path):
    path = ncnn.write_network(tmp_path / "n.param", ["Input d 0 1 x", "TanH r 1 1 x y"])
    with pytest.raises(ImportOptionError, match="--classes has no effect on a network of ncnn"):
        convert_network(path, UserOptions(classes=3))


def test_other_files_are_no_networks(tmp_path):
    for name, content in (("a.bin", b"7767517\n"), ("a.pth", b"PK"), ("b.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        assert find_network(tmp_path / name) is None
    (tmp_path / "c.param").write_bytes(b"other")
    with pytest.raises(ModelImportError, match=r"not a \.param file of ncnn"):
        convert_network(tmp_path / "c.param", UserOptions())
