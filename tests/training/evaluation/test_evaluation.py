import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.runtime.models.manifest import ImageSpec, read_manifest
from tests.training.evaluation.conftest import SIDE, drawn, write_pictures
from training.data.images import DataOptions
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import EvaluationOptions, evaluate
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.features.references import open_reference
from training.evaluation.report.recording import record
from training.evaluation.report.tables import basis, common_basis, verdicts
from training.evaluation.targets import EvaluationTarget, open_target

QUICK = EvaluationOptions(samples=300, obedience=False)


@pytest.fixture(scope="module")
def data(splits) -> DataOptions:
    return DataOptions(path=str(splits), resolution=SIDE, channels=1)


@pytest.fixture(scope="module")
def reference(data):
    return open_reference(data)


def pictures(pixels: np.ndarray, title: str = "pictures") -> EvaluationTarget:
    image = ImageSpec(height=SIDE, width=SIDE, channels=1)
    return EvaluationTarget(title=title, image=image, stored=pixels[..., None])


def figures(subject, reference, network, options=QUICK) -> dict:
    evaluation, _ = evaluate(subject, reference, network, options)
    return {figure.metric: figure for figure in evaluation.figures}


@pytest.fixture(scope="module")
def good(reference, small_network):
    return figures(pictures(drawn(300, seed=3)[0]), reference, small_network)


def test_pictures_of_the_same_kind_score_as_real_ones_do(good):
    kernel = good["KID-averages"]
    assert kernel.low <= 0.002
    assert good["FD-averages"].value < 3 * good["FD-averages"].real
    for metric in ("precision", "recall", "coverage", "diversity"):
        assert good[metric].value == pytest.approx(good[metric].real, abs=0.15)
    assert good["duplicates"].value == 0
    assert good["training distance"].value == pytest.approx(1, abs=0.15)


def test_noise_costs_distance_and_precision(good, reference, small_network):
    pixels = drawn(300, seed=3)[0]
    noise = np.random.default_rng(0).normal(0, 90, pixels.shape)
    noisy = figures(
        pictures((pixels + noise).clip(0, 255).astype(np.uint8)), reference, small_network
    )
    assert noisy["KID-averages"].low > good["KID-averages"].high
    assert noisy["FD-averages"].value > 2 * good["FD-averages"].value
    assert noisy["precision"].value < good["precision"].value / 2


def test_dropped_classes_cost_recall_and_coverage_and_not_precision(good, reference, small_network):
    pixels, labels = drawn(600, seed=3)
    kept = figures(pictures(pixels[labels < 5][:300]), reference, small_network)
    assert kept["precision"].value >= good["precision"].value - 0.05
    assert kept["recall"].value < good["recall"].value * 0.75
    assert kept["coverage"].value < good["coverage"].value * 0.75


def test_planted_copies_are_counted_and_shown(reference, small_network):
    pixels = drawn(300, seed=3)[0].copy()
    training = np.asarray(reference.training.pictures.pixels)[..., 0]
    pixels[:30] = training[100:130]
    pixels[280:] = pixels[250:270]
    evaluation, shown = evaluate(pictures(pixels), reference, small_network, QUICK)
    assert evaluation.figure("memorised").value == pytest.approx(0.1)
    assert evaluation.figure("memorised").real == 0
    assert evaluation.figure("duplicates").value == pytest.approx(40 / 300)
    for each in shown.nearest:
        assert each.distance <= 1
        assert (each.made == each.training[0]).all()


def test_every_figure_names_what_it_rests_on(repository, reference, small_network):
    subject = open_target("dcgan-fashion", repository, seed_start=7)
    evaluation, shown = evaluate(subject, reference, small_network, QUICK)
    assert evaluation.seeds == "7 to 306"
    assert evaluation.digest == read_manifest(repository / "dcgan-fashion" / "1").digest
    for figure in evaluation.figures:
        assert figure.samples == 300
        assert figure.seed_start == 7
        assert len(figure.reference_sha256) == 64
        assert figure.resizing
    by_network = [figure for figure in evaluation.figures if figure.feature_network]
    assert {f.feature_network for f in by_network} == {small_network.title}
    assert evaluation.figure("KID").reference_samples == 300
    assert any("few" in warning for warning in evaluation.warnings)
    assert shown.samples.shape == (64, SIDE, SIDE, 1)


def test_manifolds_are_compared_with_as_many_pictures_on_every_side(data, small_network):
    reference = open_reference(data)
    options = EvaluationOptions(samples=500, reference_samples=90, obedience=False)
    evaluation, _ = evaluate(pictures(drawn(200, seed=3)[0]), reference, small_network, options)
    for metric in ("precision", "recall", "density", "coverage"):
        figure = evaluation.figure(metric)
        assert figure.samples == figure.reference_samples == figure.real_samples == 90
    distance = evaluation.figure("FD")
    assert (distance.samples, distance.reference_samples, distance.real_samples) == (200, 90, 200)


def test_mirror_images_count_as_copies_where_the_recipe_flips():
    subject = open_target("biggan-flowers", Path(__file__).parents[3] / "models")
    assert subject.data.flip
    assert not open_target("gan-mnist", Path(__file__).parents[3] / "models").data.flip


def test_samples_are_those_that_are_served(repository, reference, small_network):
    subject = open_target("cgan-fashion@1", repository, seed_start=3)
    _, shown = evaluate(subject, reference, small_network, QUICK)
    again = subject.model.generate(range(3, 19), [(3 + i) % 10 for i in range(16)])
    assert np.array_equal(shown.samples[:16], again)


def test_classes_have_their_own_figures(repository, reference, small_network):
    subject = open_target("cgan-fashion", repository)
    evaluation, _ = evaluate(subject, reference, small_network, QUICK)
    # The data know classes by number alone, and there are as many.
    assert list(evaluation.per_class) == list(subject.classes)
    each = evaluation.per_class["trouser"]
    assert each.samples == 30
    assert each.low < each.kernel_distance < each.high
    mean = np.mean([figures.kernel_distance for figures in evaluation.per_class.values()])
    assert evaluation.figure("intra-class").value == pytest.approx(mean)


def test_styles_have_a_path_length(tmp_path, small_network):
    from tests.support.drawn_models import SIZE, write_models

    write_models(tmp_path / "models")
    subject = open_target("painted", tmp_path / "models")
    pixels = np.concatenate(list(subject.pictures(60)))
    folder = tmp_path / "data"
    write_pictures(folder / "train", pixels[:40])
    write_pictures(folder / "test", pixels[40:])
    reference = open_reference(DataOptions(path=str(folder), resolution=SIZE, channels=3))
    options = EvaluationOptions(samples=40, paths=20)
    first, _ = evaluate(subject, reference, small_network, options)
    second, _ = evaluate(subject, reference, small_network, options)
    length = first.figure("path length")
    assert (length.value > 0, length.samples) == (True, 20)
    assert second.figure("path length").value == length.value


def test_without_a_held_out_split_it_says_so(tmp_path, small_network):
    folder = write_pictures(tmp_path / "all", *drawn(120, seed=1))
    reference = open_reference(DataOptions(path=str(folder), resolution=SIDE, channels=1))
    assert not reference.held_out
    subject = pictures(drawn(100, seed=3)[0])
    evaluation, _ = evaluate(subject, reference, small_network, QUICK)
    assert any("learning by heart" in warning for warning in evaluation.warnings)
    # Half of the real pictures against the other half.
    assert evaluation.figure("KID").real_samples == 60


def test_features_of_real_pictures_are_kept_by_content(splits, data, small_network, monkeypatch):
    first = open_reference(data)
    rows = first.against.rows(50)
    features = first.against.features(rows, small_network)

    def refuse(*_):
        raise AssertionError("looked at again")

    monkeypatch.setattr(FeatureNetwork, "features", refuse)
    again = open_reference(data).against.features(rows, small_network)
    assert np.array_equal(again.vectors, features.vectors)
    with pytest.raises(AssertionError, match="looked at again"):
        first.against.features(rows[:-1], small_network)
    with pytest.raises(AssertionError, match="looked at again"):
        first.training.features(rows, small_network)


def test_what_does_not_belong_together_is_refused(
    splits, data, reference, small_network, repository
):
    larger = open_reference(data.model_copy(update={"resolution": 32}))
    with pytest.raises(QualityError, match="28, 28, 1"):
        evaluate(pictures(drawn(20, seed=3)[0]), larger, small_network, QUICK)
    with pytest.raises(QualityError, match="9 samples are too few"):
        evaluate(pictures(drawn(9, seed=3)[0]), reference, small_network, QUICK)
    with pytest.raises(DataError, match="has no split 'dev'"):
        open_reference(data, "dev")
    with pytest.raises(QualityError, match="nowhere is no model, run or folder"):
        open_target("nowhere", repository)
    with pytest.raises(QualityError, match="knows no truncation"):
        open_target("gan-mnist", repository, truncation=0.5)


def test_verdicts_are_sure_where_intervals_are_apart(reference, small_network):
    pixels = drawn(300, seed=3)[0]
    noise = np.random.default_rng(0).normal(0, 90, pixels.shape)
    sets = {
        "one": pixels,
        "two": drawn(300, seed=4)[0],
        "noisy": (pixels + noise).clip(0, 255).astype(np.uint8),
    }
    evaluations = [
        evaluate(pictures(each, name), reference, small_network, QUICK)[0]
        for name, each in sets.items()
    ]
    said = {frozenset((v.better, v.worse)): v for v in verdicts(evaluations)}
    assert not said[frozenset(("one", "two"))].sure
    assert said[frozenset(("one", "noisy"))].sure
    assert said[frozenset(("one", "noisy"))].better == "one"
    other = evaluations[0].model_copy(update={"reference_sha256": "0" * 64, "subject": "x"})
    with pytest.raises(QualityError, match="do not compare: they have another reference"):
        verdicts([evaluations[0], other])


def test_a_comparison_says_what_each_rests_on_where_that_differs(reference, small_network):
    pixels = drawn(300, seed=4)[0]
    many, few = (
        evaluate(pictures(pixels[:count], title), reference, small_network, QUICK)[0]
        for count, title in ((300, "many"), (60, "few"))
    )
    told = common_basis([many, few])
    assert told[:2] == ["many: 300 samples", "few: 60 samples"]
    assert len(told) == len(set(told))
    assert "Fréchet distance falls with the number of samples" in told[-1]
    same = common_basis([many, many])
    assert same == basis(many)


def test_recorded_figures_stand_in_manifest_and_card(models, reference, small_network):
    folder = models / "cgan-fashion" / "1"
    before = read_manifest(folder)
    subject = open_target("cgan-fashion", models)
    evaluation, _ = evaluate(subject, reference, small_network, QUICK)
    record(folder, evaluation)
    record(folder, evaluation)
    after = read_manifest(folder)
    assert after.quality == evaluation.figures
    assert after.digest == before.digest
    card = (folder / "README.md").read_text()
    assert card.count("| KID-averages |") == 1
    assert card.count("| Precision |") == 1
    (basis,) = (line for line in card.splitlines() if line.startswith("| Measured on |"))
    assert "seeds 0 to 299; " in basis
    assert f"(sha256 {reference.against.sha256[:12]})" in basis
    assert f"resized by {small_network.resizing}" in basis
    with pytest.raises(QualityError, match="another model"):
        record(models / "gan-mnist" / "1", evaluation)


PROBE = """
import sys
import shutil
import subprocess
import sys
from pathlib import Path
from training.data.images import DataOptions
from training.evaluation.evaluation import Options, evaluate
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import open_reference
from training.evaluation.report.page import write_report
from training.evaluation.targets import open_subject
models, data, network = sys.argv[1:]
subject = open_subject("gan-mnist", Path(models))
reference = open_reference(DataOptions(path=data, resolution=28, channels=1))
evaluate(subject, reference, open_network(network), Options(samples=20))
assert "torch" not in sys.modules
"""


def test_what_is_served_is_measured_without_pytorch(repository, splits, small_network_file):
    arguments = [str(repository), str(splits), str(small_network_file)]
    subprocess.run([sys.executable, "-c", PROBE, *arguments], check=True)


def test_training_works_without_what_measures():
    modules = "training.trainer, training.export.exporter, service.cli.main"
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"scipy", "sklearn", "optuna"} & set(done.stdout.split())


def test_what_was_trained_on_is_the_recipes_split_and_no_more_than_that(data):
    limited = open_reference(data.model_copy(update={"limit": 50}))
    assert len(limited.training.pictures) == 50
    assert len(limited.against.pictures) == 300
    swapped = open_reference(data.model_copy(update={"split": "test"}), "train")
    assert (len(swapped.training.pictures), len(swapped.against.pictures)) == (300, 400)


def test_a_model_is_found_by_name_version_or_folder(models):
    shutil.copytree(models / "gan-mnist" / "1", models / "gan-mnist" / "10")
    manifest = models / "gan-mnist" / "10" / "model.json"
    manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "10"'))
    for wanted, title in {
        "gan-mnist": "gan-mnist@10",
        "gan-mnist@1": "gan-mnist@1",
        str(models / "gan-mnist" / "1"): "gan-mnist@1",
        str(models / "gan-mnist"): "gan-mnist@10",
    }.items():
        assert open_target(wanted, models).title == title
    with pytest.raises(QualityError, match="is a model repository"):
        open_target(str(models), models)
    with pytest.raises(QualityError, match="no version '7'"):
        open_target("gan-mnist@7", models)
