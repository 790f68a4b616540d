import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from tests.support.inception_weights import drawn_pictures, drawn_weights
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network, to_rgb
from training.evaluation.features.resizing import resize
from training.evaluation.metrics.distribution import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from training.evaluation.metrics.precision_recall import coverage


@pytest.fixture(scope="module")
def efficientnet():
    return open_network()


def write_graph(path: Path, shape: list, kind: int = TensorProto.FLOAT) -> Path:
    """A network whose features are the mean of each channel."""
    axes = [1, 2] if kind == TensorProto.UINT8 else [2, 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["features"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], axes)],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_figures_on_inception_agree_with_torch_fidelity(tmp_path):
    said = json.loads((Path(__file__).parent / "torch_fidelity.json").read_text())
    torch.save(drawn_weights(), tmp_path / "weights.pth")
    network = open_network(str(tmp_path / "weights.pth"))
    made, real = (network.features(pixels) for pixels in drawn_pictures())
    assert made.vectors[0, :8] == pytest.approx(said["first_features"], abs=1e-3)
    distance = frechet_distance(Moments.of(made.vectors), Moments.of(real.vectors))
    assert distance == pytest.approx(said["frechet_inception_distance"], abs=1e-3)
    kernel = kernel_distance(made.vectors, real.vectors)
    assert kernel.value == pytest.approx(said["kernel_inception_distance_mean"], abs=1e-3)
    mean, spread = inception_score(made.logits)
    assert mean == pytest.approx(said["inception_score_mean"], abs=1e-3)
    assert spread == pytest.approx(said["inception_score_std"], abs=1e-3)
    found = coverage(real.vectors, made.vectors)
    assert found.precision == pytest.approx(said["precision"], abs=1e-3)
    assert found.recall == pytest.approx(said["recall"], abs=1e-3)
    # Weights of anyone's own do not make an FID.
    assert network.distance_name("FD").startswith("FD-InceptionV3-")
    assert network.resizing == "TensorFlow 1 bilinear to 299×299"


def test_efficientnet_tells_shapes_apart_and_ignores_a_little_noise(efficientnet):
    made, real = drawn_pictures()
    noisy = np.clip(made.astype(int) + 2, 0, 255).astype(np.uint8)
    vectors = [efficientnet.features(pixels[:16]).vectors for pixels in (made, real, noisy)]
    assert vectors[0].shape == (16, 1280)
    away = np.linalg.norm(vectors[0] - vectors[1], axis=1).mean()
    near = np.linalg.norm(vectors[0] - vectors[2], axis=1).mean()
    assert near < away / 4
    assert efficientnet.distance_name("FD") == "FD-EffNetLite0"
    assert efficientnet.distance_name("KID") == "KID-EffNetLite0"


def test_efficientnet_knows_a_photograph(efficientnet):
    from sklearn.datasets import load_sample_image

    flower = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))
    logits = efficientnet.features(np.asarray(flower)[None]).logits
    # A dahlia; of ImageNet's classes, 985 is the daisy.
    assert 985 in np.argsort(logits[0])[-5:]


def test_a_row_depends_on_no_other(efficientnet):
    pixels = drawn_pictures()[0][:6]
    whole = efficientnet.features(pixels).vectors
    ones = [efficientnet.features(pixels[i : i + 1]).vectors[0] for i in range(6)]
    assert np.array_equal(whole, np.stack(ones))


def test_any_onnx_network_is_given_pictures_as_it_wants_them(tmp_path):
    path = write_graph(tmp_path / "means.onnx", ["N", 3, 16, 16])
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    network = open_network(str(path))
    expected = [(255 - mean) / scale for mean, scale in ((123.675, 58.395), (116.28, 57.12))]
    assert network.features(white).vectors[0, :2] == pytest.approx(expected, abs=1e-4)
    assert network.distance_name("FD") == "FD-means"
    before = network.key
    said = {"name": "mine", "mean": [0, 0, 0], "scale": [255, 255, 255], "resizing": "bilinear"}
    path.with_suffix(".json").write_text(json.dumps(said))
    network = open_network(str(path))
    assert network.features(white).vectors == pytest.approx(1)
    assert network.distance_name("KID") == "KID-mine"
    assert network.resizing == "antialiased bilinear to 16×16"
    assert network.key != before


def test_a_network_that_takes_bytes_gets_them_as_they_are(tmp_path):
    path = write_graph(tmp_path / "bytes.onnx", ["N", "H", "W", 3], TensorProto.UINT8)
    network = open_network(str(path))
    pixels = drawn_pictures()[0][:3]
    assert network.features(pixels).vectors == pytest.approx(pixels.mean(axis=(1, 2)), abs=1e-3)
    assert network.resizing == "in the network"


def test_what_is_no_feature_network_is_refused(tmp_path):
    with pytest.raises(QualityError, match="no feature network 'nowhere'"):
        open_network("nowhere")
    (tmp_path / "a.onnx").write_bytes(b"not a graph")
    with pytest.raises(QualityError, match=r"a\.onnx"):
        open_network(str(tmp_path / "a.onnx"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(QualityError, match="does not hold the weights of inception-v3"):
        open_network(str(tmp_path / "b.pth"))
    path = write_graph(tmp_path / "c.onnx", ["N", 3, 16, 16])
    path.with_suffix(".json").write_text('{"sides": 3}')
    with pytest.raises(QualityError, match="does not say how pictures go in"):
        open_network(str(path))


def test_grey_and_transparent_pictures_become_rgb():
    grey = np.full((1, 2, 2, 1), 7, np.uint8)
    assert (to_rgb(grey) == 7).all()
    assert to_rgb(grey).shape == (1, 2, 2, 3)
    clear = np.zeros((1, 2, 2, 4), np.uint8)
    assert (to_rgb(clear) == 255).all()
    clear[..., 3] = 255
    assert (to_rgb(clear) == 0).all()


@pytest.mark.parametrize(("before", "after"), [(28, 224), (64, 16), (50, 33)])
@pytest.mark.parametrize(("kind", "filter_"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_resizing_is_pillows_without_its_rounding(before, after, kind, filter_):
    pixels = np.random.default_rng(0).integers(0, 256, (before, before), np.uint8)
    image = Image.fromarray(pixels.astype(np.float32))
    expected = np.asarray(image.resize((after, after), Image.Resampling[filter_])).clip(0, 255)
    ours = resize(pixels[None, ..., None], after, kind)[0, 0]
    assert np.abs(ours - expected).max() < 0.01


def test_tensorflows_resizing_repeats_the_last_pixel():
    pixels = np.array([[0, 100], [200, 40]], np.uint8)[None, ..., None]
    ours = resize(pixels, 4, "tensorflow")[0, 0]
    assert ours.tolist() == [
        [0, 50, 100, 100],
        [100, 85, 70, 70],
        [200, 120, 40, 40],
        [200, 120, 40, 40],
    ]
