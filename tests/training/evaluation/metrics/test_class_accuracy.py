import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import MANIFEST_FILE, Manifest, file_sha256, read_manifest
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import Graph
from service.runtime.models.parts.latent import LatentSpace
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import TrainingProvenance
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.images import drawn_digits
from training.data.images import DataOptions, load_images
from training.evaluation.errors import QualityError
from training.evaluation.features.classifier import ClassifierSettings
from training.evaluation.features.references import digest_of
from training.evaluation.metrics.class_accuracy import measure_class_accuracy
from training.export.model_card import model_card

FAST = ClassifierSettings(width=8, images=6_000)
Z_DIM = 4


def write_model(folder, images, classes=tuple("0123456789")):
    """Write a model that looks up the image of a class and adds noise made from z."""
    table = images.astype(np.float32)[..., None]
    nodes = [
        helper.make_node("Gather", ["table", "class_index"], ["image"], axis=0),
        helper.make_node("ReduceSum", ["z", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "ten"], ["brightness"]),
        helper.make_node("Reshape", ["brightness", "row"], ["noise"]),
        helper.make_node("Add", ["image", "noise"], ["noisy"]),
        helper.make_node("Clip", ["noisy", "black", "white"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["pixels"], to=TensorProto.UINT8),
    ]
    constants = {
        "table": table,
        "axes": np.array([1]),
        "ten": np.float32(10),
        "row": np.array([-1, 1, 1, 1]),
        "black": np.float32(0),
        "white": np.float32(255),
    }
    graph = helper.make_graph(
        nodes,
        "table",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", Z_DIM]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", *table.shape[1:]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir()
    onnx.save(model, folder / "generator.onnx")
    manifest = Manifest(
        name="lookup",
        version="1",
        task="generate",
        summary="Digits looked up in a table",
        graphs={
            "generator": Graph(
                file="generator.onnx",
                sha256=file_sha256(folder / "generator.onnx"),
                inputs=("z", "class_index"),
                outputs=("pixels",),
            )
        },
        image=ImageSpec(height=28, width=28, channels=1),
        latent=LatentSpace(dimension=Z_DIM),
        classes=classes,
        provenance=TrainingProvenance(
            recipe="cgan-mnist",
            dataset="digits",
            dataset_license="none",
            images=1,
            turns=1,
            seconds=1,
            device="none",
            seed=0,
            code_revision="none",
        ),
        license="none",
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


@pytest.fixture
def data(digits) -> DataOptions:
    return DataOptions(title="MNIST", path=str(digits), resolution=28, channels=1)


@pytest.fixture(scope="module")
def correct_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("correct") / "model", drawn_digits(10)[0])


def test_model_with_correct_classes_scores_high(correct_model, data):
    result = measure_class_accuracy(correct_model, data, samples=200, settings=FAST)
    assert result.accuracy > 0.9
    assert list(result.per_class) == [str(digit) for digit in range(10)]
    assert min(result.per_class.values()) > 0.5


def test_swapped_classes_score_low(tmp_path, data):
    # 0 to 4 are correct, 5 to 9 are swapped.
    images = drawn_digits(10)[0][[0, 1, 2, 3, 4, 6, 7, 8, 9, 5]]
    folder = write_model(tmp_path / "model", images)
    result = measure_class_accuracy(folder, data, samples=200, settings=FAST)
    assert result.accuracy == pytest.approx(0.5, abs=0.1)
    assert result.per_class["3"] > 0.8
    assert result.per_class["7"] < 0.2


def test_result_contains_classifier_data_and_counts(correct_model, data):
    model = Model(correct_model, Provider.CPU, ExecutionPlan(1, 1, 8))
    stages = set()
    result = measure_class_accuracy(
        model,
        data,
        samples=100,
        seed_start=7,
        settings=FAST,
        progress=lambda stage, done, total: stages.add((stage, total)),
    )
    figure = result.quality
    assert figure.metric == "class obedience"
    assert figure.value == result.accuracy
    assert "accuracy of" in figure.feature_network
    assert "60 held-out real images" in figure.feature_network
    assert figure.reference == "MNIST, split train"
    assert figure.reference_sha256 == digest_of(load_images(data).pixels)
    assert (figure.samples, figure.reference_samples) == (100, 540)
    assert ("classifying generated images", 100) in stages
    manifest = read_manifest(correct_model)
    measured = manifest.model_copy(update={"quality": (figure,)})
    assert measured.digest == manifest.digest
    card = model_card(measured)
    assert f"{figure.value:.1%} of 100 samples" in card
    assert "Ganymede's classifier" in card


def test_rejects_different_classes(tmp_path, data):
    folder = write_model(tmp_path / "model", drawn_digits(10)[0], tuple("9876543210"))
    with pytest.raises(QualityError, match="has the classes 9, 8"):
        measure_class_accuracy(folder, data, samples=10, settings=FAST)


def test_rejects_different_sizes(correct_model, data):
    larger = data.model_copy(update={"resolution": 32})
    with pytest.raises(QualityError, match="28 pixels and 1 channels, but the data set has 32"):
        measure_class_accuracy(correct_model, larger, samples=10, settings=FAST)


def test_rejects_model_without_classes(repository, data):
    with pytest.raises(QualityError, match="gan-mnist has no classes"):
        measure_class_accuracy(repository / "gan-mnist" / "1", data, samples=10, settings=FAST)
