"""Figures of models of sounds, on models whose figures are known."""

import numpy as np
import pytest
from onnx import TensorProto

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.latent import LatentSpace
from service.runtime.models.parts.outputs import AudioSpec
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import GraphBuilder
from tests.support.output_models import write_manifest
from tests.support.sounds import write_tones
from training.data.images import DataOptions
from training.data.sounds.options import SoundOptions
from training.evaluation.errors import QualityError
from training.evaluation.metrics.class_accuracy import CLASS_ACCURACY
from training.evaluation.sound.classifier import ClassifierSettings
from training.evaluation.sound.evaluation import FEATURES, REAL_TIME_FACTOR, evaluate_sounds

SETTINGS = ClassifierSettings(width=4, sounds=9600, learning_rate=1e-2)
RATE, SAMPLES, Z = 8000, 512, 4
DISTANCE = f"FD-{FEATURES}"


def write_tone_model(folder, pitches, classes=("high", "low")):
    """Write a model that returns a noisy tone of the pitch of each class, shifted by z."""
    folder.mkdir(parents=True)
    graph = GraphBuilder(seed=31)
    inputs = ["z", "class_weights"] if classes else ["z"]
    hertz = graph.constant(np.array([[pitches[0]]], np.float32))
    if classes:
        table = graph.constant(np.array(pitches, np.float32)[:, None])
        hertz = graph.node("MatMul", "class_weights", table)
    mean = graph.node("MatMul", "z", graph.constant(np.full((Z, 1), 0.05, np.float32)))
    factor = graph.node("Add", mean, graph.constant(np.float32(1)))
    hertz = graph.node("Mul", hertz, factor)
    radians = np.arange(SAMPLES, dtype=np.float32) * np.float32(2 * np.pi / RATE)
    wave = graph.node("Sin", graph.node("Mul", hertz, graph.constant(radians[None])))
    noise = np.random.default_rng(1).normal(0, 600, (1, SAMPLES)).astype(np.float32)
    loud = graph.node("Mul", wave, graph.constant(np.float32(16_000)))
    levels = graph.node("Round", graph.node("Add", loud, graph.constant(noise)))
    graph.node("Cast", levels, output="samples", to=TensorProto.INT16)
    generator = graph.save(
        folder / "generator.onnx",
        inputs,
        ["samples"],
        z=(TensorProto.FLOAT, ["N", Z]),
        class_weights=(TensorProto.FLOAT, ["N", len(classes)]),
        samples=(TensorProto.INT16, ["N", SAMPLES]),
    )
    write_manifest(
        folder,
        {GENERATOR: generator},
        "audio",
        audio=AudioSpec(sample_rate=RATE, samples=SAMPLES),
        latent=LatentSpace(dimension=Z),
        classes=classes,
    )
    return Model(folder, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=16))


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("sounds") / "tones", count=64)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path_factory.getbasetemp() / "sound-cache"))


def measured(model, tones, samples=40, **options):
    data = DataOptions(path=str(tones), sound=SoundOptions(rate=RATE, samples=SAMPLES), **options)
    result = evaluate_sounds(model, data, None, replaced=True, samples=samples, settings=SETTINGS)
    return {figure.metric: figure for figure in result.figures}


def test_class_accuracy_tells_obeyed_classes_from_swapped_ones(tones, tmp_path):
    right = measured(write_tone_model(tmp_path / "right" / "1", [2000.0, 300.0]), tones)
    swapped = measured(write_tone_model(tmp_path / "swapped" / "1", [300.0, 2000.0]), tones)
    assert right[CLASS_ACCURACY.key].value > 0.9
    assert swapped[CLASS_ACCURACY.key].value < 0.1
    figure = right[CLASS_ACCURACY.key]
    assert figure.low < figure.value <= figure.high
    assert figure.real > 0.9
    assert (figure.real_samples, figure.samples, figure.reference_samples) == (16, 40, 64)
    assert "chance is 50.0%" in figure.note
    assert "16 held-out sounds" in figure.note


def test_distance_is_larger_for_sounds_of_one_pitch(tones, tmp_path):
    both = measured(write_tone_model(tmp_path / "both" / "1", [2000.0, 300.0]), tones)
    collapsed = measured(write_tone_model(tmp_path / "one" / "1", [1000.0, 1000.0]), tones)
    assert 2 * both[DISTANCE].value < collapsed[DISTANCE].value
    # The real distance does not depend on the model, and both are of equally many sounds.
    assert both[DISTANCE].real == collapsed[DISTANCE].real
    assert both[DISTANCE].samples == both[DISTANCE].real_samples == 16


def test_real_subset_has_every_class(tones, tmp_path):
    model = write_tone_model(tmp_path / "right" / "1", [2000.0, 300.0])
    few = measured(model, tones, samples=8)
    # The first half of the held-out sounds, all of one class, is farther away than that.
    assert few[DISTANCE].real < 3


def test_model_without_classes_has_no_class_accuracy(tones, tmp_path):
    figures = measured(write_tone_model(tmp_path / "plain" / "1", [500.0], ()), tones)
    assert CLASS_ACCURACY.key not in figures
    factor = figures[REAL_TIME_FACTOR]
    assert 0 < factor.value < 100
    assert factor.real is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ()}, "has no classes"),
        ({"classes": ("low",)}, "at least two"),
    ],
)
def test_refuses_data_without_classes(tones, tmp_path, options, message):
    model = write_tone_model(tmp_path / "right" / "1", [2000.0, 300.0])
    with pytest.raises(QualityError, match=message):
        measured(model, tones, **options)


def test_refuses_other_classes(tones, tmp_path):
    model = write_tone_model(tmp_path / "cats" / "1", [2000.0, 300.0], ("cat", "dog"))
    with pytest.raises(QualityError, match=r"has the classes cat, dog, but tones.* has high, low"):
        measured(model, tones)
