import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.manifest import (
    MANIFEST_FILE,
    Graph,
    ImageSpec,
    LatentSpace,
    Manifest,
    TrainingProvenance,
    file_sha256,
    read_manifest,
)
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.images import drawn_digits
from training.data.images import DataOptions, load_images
from training.evaluation.errors import QualityError
from training.evaluation.features.classifier import ClassifierSettings
from training.evaluation.features.references import digest_of
from training.evaluation.metrics.class_accuracy import measure_class_accuracy
from training.export.model_card import model_card

QUICK = ClassifierSettings(width=8, images=6_000)
Z_DIM = 4


def write_model(folder, pictures, classes=tuple("0123456789")):
    """A model whose graph looks each class up in a table of pictures, and adds z as noise."""
    table = pictures.astype(np.float32)[..., None]
    nodes = [
        helper.make_node("Gather", ["table", "class_index"], ["picture"], axis=0),
        helper.make_node("ReduceSum", ["z", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "ten"], ["shade"]),
        helper.make_node("Reshape", ["shade", "row"], ["noise"]),
        helper.make_node("Add", ["picture", "noise"], ["noisy"]),
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
        name="looked-up",
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
    return DataOptions(name="mnist", path=str(digits), resolution=28, channels=1)


def test_a_model_that_draws_what_it_is_asked_for_is_obedient(tmp_path, data):
    folder = write_model(tmp_path / "model", drawn_digits(10)[0])
    obedience = measure_class_accuracy(folder, data, samples=205, settings=QUICK)
    assert obedience.agreement > 0.9
    assert list(obedience.per_class) == list("0123456789")
    assert min(obedience.per_class.values()) > 0.5


def test_a_model_that_mixes_classes_up_is_not(tmp_path, data):
    # 0 to 4 stay what they are, 5 to 9 go round.
    pictures = drawn_digits(10)[0][[0, 1, 2, 3, 4, 6, 7, 8, 9, 5]]
    folder = write_model(tmp_path / "model", pictures)
    obedience = measure_class_accuracy(folder, data, samples=200, settings=QUICK)
    assert obedience.agreement == pytest.approx(0.5, abs=0.1)
    assert obedience.per_class["3"] > 0.8
    assert obedience.per_class["7"] < 0.2


def test_the_figure_says_all_that_is_needed_to_read_it(tmp_path, data):
    folder = write_model(tmp_path / "model", drawn_digits(10)[0])
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    stages = set()
    obedience = measure_class_accuracy(
        model,
        data,
        samples=100,
        seed_start=7,
        settings=QUICK,
        progress=lambda stage, done, total: stages.add((stage, total)),
    )
    figure = obedience.quality
    assert figure.metric == "class obedience"
    assert figure.value == obedience.agreement
    assert "right on" in figure.feature_network
    assert "60 real pictures" in figure.feature_network
    assert figure.reference == "MNIST, split train"
    assert figure.reference_sha256 == digest_of(load_images(data).pixels)
    assert (figure.samples, figure.reference_samples) == (100, 540)
    assert ("judging generated pictures", 100) in stages
    manifest = read_manifest(folder)
    measured = manifest.model_copy(update={"quality": (figure,)})
    assert measured.digest == manifest.digest
    card = model_card(measured)
    assert (
        f"| Class obedience | {figure.value:.1%} of 100 samples, by Ganymede's classifier" in card
    )


def test_a_model_and_data_that_do_not_belong_together_are_refused(tmp_path, data):
    folder = write_model(tmp_path / "model", drawn_digits(10)[0], tuple("9876543210"))
    with pytest.raises(QualityError, match="has the classes 9, 8"):
        measure_class_accuracy(folder, data, samples=10, settings=QUICK)
    folder = write_model(tmp_path / "other", drawn_digits(10)[0])
    larger = data.model_copy(update={"resolution": 32})
    with pytest.raises(QualityError, match="28 pixels in 1 channels, and the data have 32 in 1"):
        measure_class_accuracy(folder, larger, samples=10, settings=QUICK)


def test_a_model_without_classes_is_refused(repository, data):
    with pytest.raises(QualityError, match="gan-mnist has no classes"):
        measure_class_accuracy(repository / "gan-mnist" / "1", data, samples=10, settings=QUICK)
