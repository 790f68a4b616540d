from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.support.evaluation import SIDE, noisy_digits, write_images
from training.evaluation.features.networks import FeatureNetwork, open_network


@pytest.fixture(scope="session")
def splits(tmp_path_factory) -> Path:
    """Noisy digits with a training split of 400 images and a held-out split of 300."""
    folder = tmp_path_factory.mktemp("splits")
    write_images(folder / "train", *noisy_digits(400, seed=1))
    write_images(folder / "test", *noisy_digits(300, seed=2))
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Smooth colors of 64×64 pixels: 24 training images and 12 held-out ones."""
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
    """A fast feature network: averages images down to 7×7 pixels, 147 features."""
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
