import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from service.runtime.files import cache_folder
from service.runtime.models.manifest import read_manifest
from service.runtime.models.parts.outputs import ImageSpec
from tests.support.evaluation import SIDE, noisy_digits, write_images
from training.data.images import DataOptions
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationSettings
from training.evaluation.features.references import open_reference
from training.evaluation.noise.evaluation import evaluate, evaluate_targets
from training.evaluation.noise.inputs import (
    REFERENCE_CHOICE,
    EvaluationOptions,
    default_reference_samples,
)
from training.evaluation.noise.report import (
    NoiseResult,
    basis,
    common_basis,
    compare_evaluations,
    metric_table,
)
from training.evaluation.noise.results import Evaluation
from training.evaluation.noise.targets import NoiseTarget, open_noise_target
from training.evaluation.report.recording import record_figures

FAST = EvaluationOptions(samples=300, class_accuracy=False)


@pytest.fixture(scope="module")
def data(splits) -> DataOptions:
    return DataOptions(path=str(splits), resolution=SIDE, channels=1)


@pytest.fixture(scope="module")
def reference(data):
    return open_reference(data)


def stored(pixels: np.ndarray, title: str = "images") -> NoiseTarget:
    image = ImageSpec(height=SIDE, width=SIDE, channels=1)
    return NoiseTarget(title=title, image=image, stored=pixels[..., None])


def add_noise(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 90, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def measure(reference, small_network):
    """Evaluates stored images."""

    def call(pixels: np.ndarray, title: str = "images") -> Evaluation:
        return evaluate(stored(pixels, title), reference, small_network, FAST)[0]

    return call


@pytest.fixture(scope="module")
def good(measure) -> Evaluation:
    """Images from the distribution of the reference."""
    return measure(noisy_digits(300, seed=3)[0], "good")


@pytest.fixture(scope="module")
def noisy(measure) -> Evaluation:
    return measure(add_noise(noisy_digits(300, seed=3)[0]), "noisy")


@pytest.fixture(scope="module")
def cgan(repository, reference, small_network):
    """The target, evaluation and images of a class-conditional model; the first seed is 3."""
    target = open_noise_target("cgan-fashion@1", repository, seed_start=3)
    return target, *evaluate(target, reference, small_network, FAST)


def test_same_distribution_scores_like_real_images(good):
    kernel = good.figure("KID-averages")
    assert kernel.low <= 0.002
    assert good.figure("FD-averages").value < 3 * good.figure("FD-averages").real
    for metric in ("precision", "recall", "coverage", "diversity"):
        figure = good.figure(metric)
        assert figure.value == pytest.approx(figure.real, abs=0.15)
    assert good.figure("duplicates").value == 0
    assert good.figure("training distance").value == pytest.approx(1, abs=0.15)


def test_noise_increases_distances_and_lowers_precision(good, noisy):
    assert noisy.figure("KID-averages").low > good.figure("KID-averages").high
    assert noisy.figure("FD-averages").value > 2 * good.figure("FD-averages").value
    assert noisy.figure("precision").value < good.figure("precision").value / 2


def test_missing_classes_lower_recall_and_coverage_only(good, measure):
    pixels, labels = noisy_digits(600, seed=3)
    half = measure(pixels[labels < 5][:300])
    assert half.figure("precision").value >= good.figure("precision").value - 0.05
    assert half.figure("recall").value < good.figure("recall").value * 0.75
    assert half.figure("coverage").value < good.figure("coverage").value * 0.75


def test_counts_and_shows_planted_copies(reference, small_network):
    pixels = noisy_digits(300, seed=3)[0].copy()
    training = np.asarray(reference.training.images.pixels)[..., 0]
    pixels[:30] = training[100:130]
    pixels[280:] = pixels[250:270]
    evaluation, images = evaluate(stored(pixels), reference, small_network, FAST)
    assert evaluation.figure("memorised").value == pytest.approx(0.1)
    assert evaluation.figure("memorised").real == 0
    assert evaluation.figure("duplicates").value == pytest.approx(40 / 300)
    for each in images.nearest:
        assert each.distance <= 1
        assert (each.generated == each.training[0]).all()


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}"])
def test_memorization_does_not_depend_on_the_cached_threshold(good, measure, content):
    files = list(cache_folder("features").glob("*-neighbors-*.json"))
    assert files
    for file in files:
        if content is not None:
            file.write_text(content)
    again = measure(noisy_digits(300, seed=3)[0], "good")
    for metric in ("duplicates", "memorised", "training distance"):
        assert again.figure(metric) == good.figure(metric)


def test_images_that_are_left_out_of_the_reference_are_named(tmp_path, small_network):
    pixels, _ = noisy_digits(40, seed=1)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    (tmp_path / "00.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("x")
    reference = open_reference(DataOptions(path=str(tmp_path), resolution=SIDE, channels=1))
    options = EvaluationOptions(samples=30, class_accuracy=False)
    evaluation, _ = evaluate(stored(pixels[:30]), reference, small_network, options)
    assert "reference: ignored: notes.txt: is not an image" in evaluation.warnings
    assert any(line.startswith("reference: skipped: 00.png") for line in evaluation.warnings)


def test_figures_contain_measurement_conditions(cgan, repository, small_network):
    _, evaluation, images = cgan
    assert evaluation.seeds == "3 to 302"
    assert evaluation.digest == read_manifest(repository / "cgan-fashion" / "1").digest
    for figure in evaluation.figures:
        assert figure.samples == 300
        assert figure.seed_start == 3
        assert len(figure.reference_sha256) == 64
        assert figure.resizing
    networks = {f.feature_network for f in evaluation.figures if f.feature_network}
    assert networks == {small_network.title}
    assert evaluation.figure("KID").reference_samples == 300
    assert any("too large" in warning for warning in evaluation.warnings)
    assert images.samples.shape == (64, SIDE, SIDE, 1)


def test_samples_equal_served_images(cgan):
    target, _, images = cgan
    served = target.model.generate(range(3, 19), [(3 + i) % 10 for i in range(16)])
    assert np.array_equal(images.samples[:16], served)


def test_classes_have_their_own_figures(cgan):
    target, evaluation, _ = cgan
    # The classes of the data are numbers, and there are as many.
    assert list(evaluation.per_class) == list(target.classes)
    figures = evaluation.per_class["trouser"]
    assert figures.samples == 30
    assert figures.low < figures.kernel_distance < figures.high
    mean = np.mean([each.kernel_distance for each in evaluation.per_class.values()])
    assert evaluation.figure("intra-class").value == pytest.approx(mean)


def test_precision_and_recall_use_equal_counts(data, small_network):
    reference = open_reference(data)
    options = EvaluationOptions(samples=500, reference_samples=90, class_accuracy=False)
    target = stored(noisy_digits(200, seed=3)[0])
    evaluation, _ = evaluate(target, reference, small_network, options)
    for metric in ("precision", "recall", "density", "coverage"):
        figure = evaluation.figure(metric)
        assert figure.samples == figure.reference_samples == figure.real_samples == 90
    distance = evaluation.figure("FD")
    assert (distance.samples, distance.reference_samples, distance.real_samples) == (200, 90, 200)


def test_models_with_styles_have_a_path_length(tmp_path, small_network):
    from tests.support.drawn_models import SIZE, write_models

    write_models(tmp_path / "models")
    target = open_noise_target("painted", tmp_path / "models")
    pixels = np.concatenate(list(target.batches(60)))
    folder = tmp_path / "data"
    write_images(folder / "train", pixels[:40])
    write_images(folder / "test", pixels[40:])
    reference = open_reference(DataOptions(path=str(folder), resolution=SIZE, channels=3))
    options = EvaluationOptions(samples=40, paths=20)
    first, second = (
        evaluate(target, reference, small_network, options)[0].figure("path length")
        for _ in range(2)
    )
    assert first.value > 0
    assert first.samples == 20
    assert second.value == first.value


def test_reference_without_held_out_split_is_reported(tmp_path, small_network):
    folder = write_images(tmp_path / "all", *noisy_digits(120, seed=1))
    reference = open_reference(DataOptions(path=str(folder), resolution=SIDE, channels=1))
    assert not reference.held_out
    target = stored(noisy_digits(100, seed=3)[0])
    evaluation, _ = evaluate(target, reference, small_network, FAST)
    assert any("memorizes" in warning for warning in evaluation.warnings)
    # One half of the real images is compared with the other half.
    assert evaluation.figure("KID").real_samples == 60


def test_default_reference_is_named_beside_its_figures(data, small_network, monkeypatch):
    monkeypatch.setattr("training.evaluation.noise.inputs._MIN_REFERENCE", 100)
    reference = open_reference(data)
    target = stored(noisy_digits(60, seed=3)[0])
    few = EvaluationOptions(samples=60, class_accuracy=False, report_images=False)
    evaluation, images = evaluate(target, reference, small_network, few)
    assert images is None
    assert evaluation.reference_choice == REFERENCE_CHOICE
    for figure in evaluation.figures:
        measured_on_all = figure.metric in ("duplicates", "memorised", "training distance")
        assert (figure.reference_choice is None) == measured_on_all
    assert evaluation.figure("KID").reference_samples == 120
    section = NoiseResult(evaluation, images).summary()
    (conditions,) = (str(part) for part in section.parts if "reference: " in str(part))
    assert "reference: 120 images" in conditions
    assert REFERENCE_CHOICE in conditions
    (row,) = (row for row in metric_table(evaluation).rows if row[0] == "KID-averages")
    assert "120 (default)" in row

    explicit = dataclasses.replace(few, reference_samples=120)
    same, _ = evaluate(target, reference, small_network, explicit)
    assert same.reference_choice is None
    assert [f.value for f in same.figures] == [f.value for f in evaluation.figures]
    assert all(figure.reference_choice is None for figure in same.figures)


def test_all_reference_images_are_no_choice(good):
    assert good.figure("KID").reference_samples == 300
    assert good.reference_choice is None


@pytest.mark.parametrize(
    ("samples", "expected"), [(10, 2_000), (1_000, 2_000), (1_001, 2_002), (5_000, 10_000)]
)
def test_default_reference_is_in_proportion_to_the_samples(samples, expected):
    assert default_reference_samples(samples) == expected
    assert default_reference_samples(50_000) == 10_000


def test_compared_targets_have_the_same_reference(splits, small_network_file, monkeypatch):
    monkeypatch.setattr("training.evaluation.noise.inputs._MIN_REFERENCE", 20)
    targets = [stored(noisy_digits(count, seed=3)[0]) for count in (40, 100)]
    settings = EvaluationSettings(str(splits), network=str(small_network_file))
    results = evaluate_targets(targets, settings, None)
    counts = {result.evaluation.figure("KID").reference_samples for result in results}
    assert counts == {200}


def test_rejects_different_sizes(data, small_network):
    larger = open_reference(data.model_copy(update={"resolution": 32}))
    with pytest.raises(QualityError, match="28, 28, 1"):
        evaluate(stored(noisy_digits(20, seed=3)[0]), larger, small_network, FAST)


def test_rejects_too_few_samples(measure):
    with pytest.raises(QualityError, match="9 samples are too few"):
        measure(noisy_digits(9, seed=3)[0])


def test_rejects_missing_split(data):
    with pytest.raises(DataError, match="has no split 'dev'"):
        open_reference(data, "dev")


def test_verdict_is_sure_if_intervals_do_not_overlap(good, noisy, measure):
    other = measure(noisy_digits(300, seed=4)[0], "other")
    verdicts = {
        frozenset((verdict.better, verdict.worse)): verdict
        for verdict in compare_evaluations([good, other, noisy])
    }
    assert not verdicts[frozenset(("good", "other"))].sure
    assert verdicts[frozenset(("good", "noisy"))].sure
    assert verdicts[frozenset(("good", "noisy"))].better == "good"


def test_comparison_rejects_different_references(good):
    other = good.model_copy(update={"reference_sha256": "0" * 64, "subject": "other"})
    with pytest.raises(QualityError, match="cannot be compared: their references differ"):
        compare_evaluations([good, other])


def test_comparison_warns_of_different_sample_counts(good, measure):
    few = measure(noisy_digits(60, seed=4)[0], "few")
    notes = common_basis([good, few])
    assert [str(note) for note in notes[:2]] == ["good: 300 samples", "few: 60 samples"]
    assert len(notes) == len(set(notes))
    assert "Fréchet distance falls with the number of samples" in str(notes[-1])
    assert common_basis([good, good]) == basis(good)


def test_figures_are_recorded_in_manifest_and_card(cgan, models, reference, small_network):
    _, evaluation, _ = cgan
    folder = models / "cgan-fashion" / "1"
    before = read_manifest(folder)
    for _ in range(2):
        record_figures(folder, evaluation.digest, evaluation.figures)
    after = read_manifest(folder)
    assert after.quality == evaluation.figures
    assert after.digest == before.digest
    card = (folder / "README.md").read_text()
    assert card.count("| KID-averages |") == 1
    assert card.count("| Precision |") == 1
    (measured_on,) = (line for line in card.splitlines() if line.startswith("| Measured on |"))
    assert "seeds 3 to 302; " in measured_on
    assert f"(sha256 {reference.against.sha256[:12]})" in measured_on
    assert small_network.resizing in measured_on
    with pytest.raises(QualityError, match="does not contain the model that was measured"):
        record_figures(models / "gan-mnist" / "1", evaluation.digest, evaluation.figures)


EVALUATION_WITHOUT_TORCH = """
import sys
from pathlib import Path
from training.data.images import DataOptions
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import open_reference
from training.evaluation.noise.evaluation import evaluate
from training.evaluation.noise.inputs import EvaluationOptions
from training.evaluation.noise.targets import open_noise_target
models, data, network = sys.argv[1:]
target = open_noise_target("gan-mnist", Path(models))
reference = open_reference(DataOptions(path=data, resolution=28, channels=1))
evaluate(target, reference, open_network(network), EvaluationOptions(samples=20))
assert "torch" not in sys.modules
"""


def test_evaluation_does_not_import_torch(repository, splits, small_network_file):
    arguments = [str(repository), str(splits), str(small_network_file)]
    subprocess.run([sys.executable, "-c", EVALUATION_WITHOUT_TORCH, *arguments], check=True)


def test_training_does_not_import_the_libraries_of_evaluations():
    code = (
        "import sys, training.trainer, training.export.exporter, service.cli.main\n"
        "from training.evaluation.metrics import all_metrics\n"
        "all_metrics()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"scipy", "sklearn", "optuna", "matplotlib"} & set(done.stdout.split())


def test_training_split_of_reference_comes_from_the_recipe(data):
    limited = open_reference(data.model_copy(update={"limit": 50}))
    assert len(limited.training.images) == 50
    assert len(limited.against.images) == 300
    swapped = open_reference(data.model_copy(update={"split": "test"}), "train")
    assert (len(swapped.training.images), len(swapped.against.images)) == (300, 400)
