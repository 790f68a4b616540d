import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from tests.support.inception_weights import random_images, random_weights
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network, to_rgb
from training.evaluation.features.resizing import resize
from training.evaluation.metrics import get_metric
from training.evaluation.metrics.frechet_distance import Moments, frechet_distance
from training.evaluation.metrics.inception_score import inception_score
from training.evaluation.metrics.kernel_distance import kernel_distance
from training.evaluation.metrics.precision_recall import precision_recall

FRECHET, KERNEL = get_metric("frechet_distance"), get_metric("kernel_distance")


@pytest.fixture(scope="module")
def efficientnet():
    return open_network()


def write_graph(path: Path, shape: list, kind: int = TensorProto.FLOAT) -> Path:
    """Write a network whose features are the mean of each channel."""
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


@pytest.mark.slow
def test_inception_metrics_agree_with_torch_fidelity(tmp_path):
    expected = json.loads((Path(__file__).parent / "torch_fidelity.json").read_text())
    torch.save(random_weights(), tmp_path / "weights.pth")
    network = open_network(str(tmp_path / "weights.pth"))
    generated, real = (network.features(pixels) for pixels in random_images())
    assert generated.vectors[0, :8] == pytest.approx(expected["first_features"], abs=1e-3)
    distance = frechet_distance(Moments.of(generated.vectors), Moments.of(real.vectors))
    assert distance == pytest.approx(expected["frechet_inception_distance"], abs=1e-3)
    kernel = kernel_distance(generated.vectors, real.vectors)
    assert kernel.value == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-3)
    mean, deviation = inception_score(generated.logits)
    assert mean == pytest.approx(expected["inception_score_mean"], abs=1e-3)
    assert deviation == pytest.approx(expected["inception_score_std"], abs=1e-3)
    scores = precision_recall(real.vectors, generated.vectors)
    assert scores.precision == pytest.approx(expected["precision"], abs=1e-3)
    assert scores.recall == pytest.approx(expected["recall"], abs=1e-3)
    # Only with the published weights is the metric called FID.
    assert FRECHET.result_key(network).startswith("FD-InceptionV3-")
    assert network.resizing == "TensorFlow 1 bilinear to 299×299"


def test_efficientnet_distinguishes_shapes_and_ignores_noise(efficientnet):
    generated, real = random_images()
    noisy = np.clip(generated.astype(int) + 2, 0, 255).astype(np.uint8)
    vectors = [efficientnet.features(pixels[:16]).vectors for pixels in (generated, real, noisy)]
    assert vectors[0].shape == (16, 1280)
    far = np.linalg.norm(vectors[0] - vectors[1], axis=1).mean()
    near = np.linalg.norm(vectors[0] - vectors[2], axis=1).mean()
    assert near < far / 4
    assert FRECHET.result_key(efficientnet) == "FD-EffNetLite0"
    assert KERNEL.result_key(efficientnet) == "KID-EffNetLite0"


def test_efficientnet_recognizes_a_photograph(efficientnet):
    from sklearn.datasets import load_sample_image

    flower = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224))
    logits = efficientnet.features(np.asarray(flower)[None]).logits
    # The photograph shows a dahlia; ImageNet class 985 is the daisy.
    assert 985 in np.argsort(logits[0])[-5:]


def test_rows_are_independent(efficientnet):
    pixels = random_images()[0][:6]
    batch = efficientnet.features(pixels).vectors
    single = [efficientnet.features(pixels[i : i + 1]).vectors[0] for i in range(6)]
    assert np.array_equal(batch, np.stack(single))


def test_json_file_describes_input_of_onnx_network(tmp_path):
    path = write_graph(tmp_path / "means.onnx", ["N", 3, 16, 16])
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    network = open_network(str(path))
    expected = [(255 - mean) / scale for mean, scale in ((123.675, 58.395), (116.28, 57.12))]
    assert network.features(white).vectors[0, :2] == pytest.approx(expected, abs=1e-4)
    assert FRECHET.result_key(network) == "FD-means"
    before = network.key
    preparation = {
        "name": "mine",
        "mean": [0, 0, 0],
        "scale": [255, 255, 255],
        "resizing": "bilinear",
    }
    path.with_suffix(".json").write_text(json.dumps(preparation))
    network = open_network(str(path))
    assert network.features(white).vectors == pytest.approx(1)
    assert KERNEL.result_key(network) == "KID-mine"
    assert network.resizing == "antialiased bilinear to 16×16"
    assert network.key != before


def test_uint8_network_gets_unchanged_pixels(tmp_path):
    path = write_graph(tmp_path / "bytes.onnx", ["N", "H", "W", 3], TensorProto.UINT8)
    network = open_network(str(path))
    pixels = random_images()[0][:3]
    assert network.features(pixels).vectors == pytest.approx(pixels.mean(axis=(1, 2)), abs=1e-3)
    assert network.resizing == "in the network"


def test_rejects_invalid_feature_networks(tmp_path):
    with pytest.raises(QualityError, match="unknown feature network 'nowhere'"):
        open_network("nowhere")
    (tmp_path / "a.onnx").write_bytes(b"not a graph")
    with pytest.raises(QualityError, match=r"a\.onnx"):
        open_network(str(tmp_path / "a.onnx"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "b.pth")
    with pytest.raises(QualityError, match="does not contain the weights of inception-v3"):
        open_network(str(tmp_path / "b.pth"))
    path = write_graph(tmp_path / "c.onnx", ["N", 3, 16, 16])
    path.with_suffix(".json").write_text('{"sides": 3}')
    with pytest.raises(QualityError, match="does not describe a network's input"):
        open_network(str(path))


def test_gray_and_transparent_images_become_rgb():
    gray = np.full((1, 2, 2, 1), 7, np.uint8)
    assert (to_rgb(gray) == 7).all()
    assert to_rgb(gray).shape == (1, 2, 2, 3)
    clear = np.zeros((1, 2, 2, 4), np.uint8)
    assert (to_rgb(clear) == 255).all()
    clear[..., 3] = 255
    assert (to_rgb(clear) == 0).all()


@pytest.mark.parametrize(("before", "after"), [(28, 224), (64, 16), (50, 33)])
@pytest.mark.parametrize(("kind", "filter_"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_resizing_equals_pillow_without_rounding(before, after, kind, filter_):
    pixels = np.random.default_rng(0).integers(0, 256, (before, before), np.uint8)
    image = Image.fromarray(pixels.astype(np.float32))
    expected = np.asarray(image.resize((after, after), Image.Resampling[filter_])).clip(0, 255)
    ours = resize(pixels[None, ..., None], after, kind)[0, 0]
    assert np.abs(ours - expected).max() < 0.01


def test_tensorflow_resizing_repeats_last_pixel():
    pixels = np.array([[0, 100], [200, 40]], np.uint8)[None, ..., None]
    ours = resize(pixels, 4, "tensorflow")[0, 0]
    assert ours.tolist() == [
        [0, 50, 100, 100],
        [100, 85, 70, 70],
        [200, 120, 40, 40],
        [200, 120, 40, 40],
    ]
