from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.support.images import drawn_digits
from training.evaluation.features.networks import FeatureNetwork, open_network

SIDE = 28


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits with a little noise, no two alike: ``[count, 28, 28] uint8`` and labels."""
    rng = np.random.default_rng(seed)
    pixels, labels = drawn_digits(2 * count)
    rows = np.sort(rng.permutation(2 * count)[:count])
    varied = pixels[rows] * rng.uniform(0.6, 1, (count, 1, 1))
    varied = varied + rng.uniform(0, 60, varied.shape)
    return varied.clip(0, 255).astype(np.uint8), labels[rows]


def write_pictures(folder: Path, pixels: np.ndarray, labels: np.ndarray | None = None) -> Path:
    """Write pictures as PNG files, in a folder for each class where there are labels."""
    for i, picture in enumerate(pixels):
        where = folder if labels is None else folder / str(labels[i])
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(where / f"{i:05}.png")
    return folder


@pytest.fixture(scope="session")
def splits(tmp_path_factory) -> Path:
    """Drawn digits with a training split of 400 and a held-out one of 300."""
    folder = tmp_path_factory.mktemp("splits")
    write_pictures(folder / "train", *drawn(400, seed=1))
    write_pictures(folder / "test", *drawn(300, seed=2))
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Smooth colours: 24 pictures of 64 pixels to train on, and 12 that are held out."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in {"train": 24, "test": 12}.items():
        (folder / split).mkdir()
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(
                folder / split / f"{split}{i}.png"
            )
    return folder


@pytest.fixture(scope="session")
def small_network_file(tmp_path_factory) -> Path:
    """A feature network that averages pictures down to 7 pixels a side: 147 features, at once."""
    path = tmp_path_factory.mktemp("network") / "averages.onnx"
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "averages",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 147])],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def small_network(small_network_file) -> FeatureNetwork:
    return open_network(str(small_network_file))
