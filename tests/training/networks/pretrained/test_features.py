"""The pretrained feature network, and the distance in its features."""

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from training.evaluation.features.backbones import efficientnet_lite0
from training.networks.pretrained.efficientnet import EfficientNetLite, weights_path
from training.networks.pretrained.perceptual import PerceptualFeatures, feature_distance


@pytest.mark.parametrize("taps", [(0, 2, 4, 7), (2, 4, 10, 15)])
def test_features_match_evaluation_network(tmp_path, taps):
    """Each block equals an intermediate result of the ONNX graph with the same weights."""
    weights = torch.load(weights_path("lite0"), map_location="cpu", weights_only=True)
    model = efficientnet_lite0({name: value.numpy() for name, value in weights.items()}, side=64)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names = []
    for block in taps:
        # The stem, two in the first block, three in each of the others.
        name = convolutions[2 + 3 * block].output[0]
        added = [n.output[0] for n in model.graph.node if n.op_type == "Add" and name in n.input]
        names.append(added[0] if added else name)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(model, tmp_path / "m.onnx")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    # From [-1, 1] to (x - 127) / 128 of x in [0, 255].
    expected = session.run(names, {"images": ((images * 127.5 + 0.5) / 128).numpy()})
    network = EfficientNetLite("lite0", taps)
    features = network(images)
    assert [each.shape[1] for each in features] == network.channels
    for one, other in zip(features, expected, strict=True):
        torch.testing.assert_close(one, torch.from_numpy(other), atol=1e-3, rtol=1e-3)


def test_perceptual_features_have_unit_length():
    for features in PerceptualFeatures()(torch.rand(2, 3, 64, 64) * 2 - 1):
        length = features.square().sum(1)
        torch.testing.assert_close(length, torch.ones_like(length))


def test_feature_distance_grows_with_noise():
    network = PerceptualFeatures()
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic").clamp(-1, 1)
    assert float(feature_distance(network, images, images)) == 0
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    apart = [float(feature_distance(network, images + s * noise, images)) for s in (0.02, 0.1, 0.5)]
    assert 0 < apart[0] < apart[1] < apart[2]
    noisy = (images + 0.1 * noise).requires_grad_()
    feature_distance(network, noisy, images).backward()
    assert noisy.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in network.parameters())


def test_networks_have_the_published_number_of_weights():
    """Without the classifier; the paper's repository states 4.7 and 5.4 million with it."""
    for version, last, expected in (("lite0", 15, 4.7e6), ("lite1", 20, 5.4e6)):
        network = EfficientNetLite(version, [last])
        head_and_classifier = 320 * 1280 + 1280 + 1280 * 1000 + 1000
        count = sum(weight.numel() for weight in network.parameters()) + head_and_classifier
        assert count == pytest.approx(expected, rel=0.02)
