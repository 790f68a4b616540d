import json
import shutil

import numpy as np
import pytest
import torch

from tests.support.tiny_recipes import TINY
from tests.training.test_distributed import train as train_with_processes
from training.checkpoints import Checkpoint
from training.evaluation.during_training import EvaluateOptions, RunningQuality
from training.export.exporter import export_run
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

OFTEN = ["train.log_images=640", "train.sample_images=6400", "train.checkpoint_images=640"]


def recipe(digits, network, *more, name="dcgan-fashion"):
    evaluate = [f"evaluate.network={network}", "evaluate.samples=60", "evaluate.every_images=640"]
    # The last overrides win.
    return load_recipe(name, [*TINY[name], *OFTEN, f"data.path={digits}", *evaluate, *more])


def evaluations(run: Run) -> dict[int, float]:
    return {
        entry["images"]: entry["kernel_distance"]
        for entry in run.read_log()
        if "kernel_distance" in entry
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits, small_network_file):
    """A run of 3200 images, evaluated five times, and what it returned."""
    run = Run(tmp_path_factory.mktemp("whole") / "run")
    return run, train(recipe(digits, small_network_file, "train.images=3200"), run)


def test_a_run_is_measured_and_its_best_checkpoint_kept(whole):
    run, result = whole
    figures = evaluations(run)
    assert list(figures) == [640, 1280, 1920, 2560, 3200]
    best = min(figures, key=figures.get)
    assert result.best == (best, figures[best])
    assert Checkpoint.load(run.best_path).images == best
    assert Checkpoint.load(run.checkpoint_path).images == 3200
    entry = next(entry for entry in run.read_log() if entry["images"] == best and "recall" in entry)
    assert 0 <= entry["precision"] <= 1
    assert entry["frechet_distance"] > 0


def test_measuring_changes_nothing_of_the_training(whole, tmp_path, digits, small_network_file):
    run, _ = whole
    plain = Run(tmp_path / "plain")
    train(recipe(digits, small_network_file, "train.images=3200", "evaluate=null"), plain)
    assert not plain.best_path.exists()
    one, other = (Checkpoint.load(r.checkpoint_path).game["networks"] for r in (run, plain))
    for player, weights in one.items():
        for key, weight in weights.items():
            assert torch.equal(weight, other[player][key]), key


def test_what_is_measured_is_what_would_be_served(whole, tmp_path, small_network):
    """The pictures of the averaged generator in training are those of the exported graph."""
    from training.evaluation.features.references import open_reference
    from training.evaluation.metrics.kernel_distance import kernel_distance
    from training.evaluation.noise.targets import open_noise_target

    run, _ = whole
    subject = open_noise_target(str(run.folder), tmp_path)
    pixels = np.concatenate(list(subject.batches(60)))
    made = small_network.features(pixels).vectors
    reference = open_reference(subject.data).training
    real = reference.features(reference.rows(5_000), small_network).vectors
    last = evaluations(run)[3200]
    assert kernel_distance(made, real).value == pytest.approx(last, rel=0.02)


def test_the_best_checkpoint_can_be_exported_and_measured(whole, tmp_path):
    from training.evaluation.noise.targets import open_noise_target

    run, result = whole
    folder = export_run(run.at("best"), "best", tmp_path)
    assert json.loads((folder / "model.json").read_text())["provenance"]["images"] == result.best[0]
    assert (
        "best checkpoint" in open_noise_target(str(run.folder), tmp_path, checkpoint="best").title
    )
    with pytest.raises(RecipeError, match="last or best, not 'first'"):
        run.at("first")


def test_a_run_that_goes_on_knows_its_best(whole, tmp_path, digits, small_network_file):
    before, _ = whole
    run = Run(tmp_path / "run")
    shutil.copytree(before.folder, run.folder)
    heard = []
    result = train(
        recipe(digits, small_network_file, "train.images=3840"),
        run,
        lambda images, figures: heard.append((images, figures["kernel_distance"])),
    )
    figures = evaluations(run)
    assert heard == list(figures.items())
    assert list(figures)[-1] == 3840
    assert result.best == min(figures.items(), key=lambda each: each[1])
    assert Checkpoint.load(run.best_path).images == result.best[0]


def test_a_run_ends_early_when_asked_to_and_stays_ended(tmp_path, digits, small_network_file):
    # It cannot get better with a learning rate of next to nothing, once the average has settled.
    still = [
        "optimizer.generator.learning_rate=1e-12",
        "optimizer.discriminator.learning_rate=1e-12",
        "train.images=64000",
        "evaluate.patience=2",
    ]
    run = Run(tmp_path / "run")
    options = recipe(digits, small_network_file, *still, name="gan-mnist")
    result = train(options, run)
    figures = evaluations(run)
    assert result.images < 64_000
    assert result.images == list(figures)[-1] == result.best[0] + 2 * 640
    assert Checkpoint.load(run.checkpoint_path).images == result.images
    again = train(options, run)
    assert (again.images, evaluations(run)) == (result.images, figures)
    # With more patience it goes on.
    patient = options.model_copy(
        update={"evaluate": options.evaluate.model_copy(update={"patience": 4})}
    )
    assert train(patient, run).images > result.images


def test_classes_and_several_processes(tmp_path, digits, small_network_file):
    options = [
        *TINY["cgan-fashion"],
        f"evaluate.network={small_network_file}",
        *("evaluate.samples=40", "evaluate.every_images=1280", "evaluate.patience=1"),
        *("optimizer.generator.learning_rate=1e-12", "train.images=64000"),
    ]
    checkpoint = train_with_processes(digits, tmp_path / "two", "cgan-fashion", 2, *options)
    figures = evaluations(Run(tmp_path / "two"))
    assert checkpoint.images == list(figures)[-1] < 64_000


def test_what_stops_a_run_may_come_from_outside(tmp_path, digits, small_network_file):
    class Enough(Exception):
        pass

    def watch(images, _):
        if images >= 1280:
            raise Enough

    run = Run(tmp_path / "run")
    with pytest.raises(Enough):
        train(recipe(digits, small_network_file, "train.images=6400"), run, watch)
    assert list(evaluations(run)) == [640]
    assert Checkpoint.load(run.checkpoint_path).images == 640


# Runs from pictures to pictures, with networks as small as they go.
PICTURES = {
    "colorize-flowers": [
        *("generator.width=4", "generator.most=8", "discriminator.width=4"),
        *("data.resolution=32", "train.batch=8"),
    ],
    "cyclegan-emoji": [
        *("generator.width=4", "generator.blocks=1", "discriminator.width=4"),
        *("data.resolution=16", "source.resolution=16", "train.batch=4"),
    ],
}
# The metric of each, where its recipe says nothing.
METRICS = {"colorize-flowers": "feature_distance", "cyclegan-emoji": "kernel_distance"}


@pytest.fixture(scope="module")
def from_pictures(photographs, small_network_file):
    """Make a recipe of either game: evaluated every 32 images, of 160."""

    def make(name, *more):
        paths = [f"data.path={photographs}"]
        if name == "cyclegan-emoji":
            # Two sets of the same pictures: what should be learnt is to leave them as they are.
            paths += [f"source.path={photographs}"]
            for key in ("data", "source"):
                paths += [f"{key}.{each}=null" for each in ("only", "hold_out", "half")]
        sizes = ["train.images=160", "train.log_images=32", "train.checkpoint_images=32"]
        evaluate = f"evaluate={{every_images: 32, samples: 40, network: {small_network_file}}}"
        return load_recipe(name, [*PICTURES[name], *paths, *sizes, evaluate, *more])

    return make


def figures_of(run, metric):
    return {e["images"]: e[metric] for e in run.read_log() if metric in e}


@pytest.fixture(scope="module", params=PICTURES)
def picture_run(request, tmp_path_factory, from_pictures):
    """The name of a recipe, a run of it, and what it returned."""
    run = Run(tmp_path_factory.mktemp("pictures") / "run")
    return request.param, run, train(from_pictures(request.param), run)


def test_a_run_from_pictures_is_measured_and_its_best_checkpoint_kept(picture_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name, run, result = picture_run
    figures = figures_of(run, METRICS[name])
    assert list(figures) == [32, 64, 96, 128, 160]
    best = min(figures, key=figures.get)
    assert result.best == (best, figures[best])
    assert Checkpoint.load(run.best_path).images == best
    (last,) = [e for e in run.read_log() if METRICS[name] in e and e["images"] == 160]
    expected = {"feature_distance", "psnr", "ssim", "error"}
    if name == "cyclegan-emoji":
        means = {"kernel_distance", "frechet_distance", "precision", "recall"}
        expected = means | {
            f"{figure}/{way}"
            for figure in (*means, "kernel_distance_high")
            for way in ("noto-to-fluent", "fluent-to-noto")
        }
    assert last.keys() == expected | {"images", "state"}
    events = EventAccumulator(str(run.tensorboard)).Reload()
    for figure in expected:
        assert [e.step for e in events.Scalars(figure)] == list(figures), figure


def test_the_best_checkpoint_is_served_as_good_as_it_was_measured(picture_run, tmp_path):
    from functools import partial

    from training.evaluation.image_to_image.targets import open_image_to_image_target
    from training.preview.image_to_image import translate_images

    name, run, result = picture_run
    recipe = run.recipe()
    opened = open_image_to_image_target(str(run.folder), tmp_path, checkpoint="best")
    assert opened.title == "run, best checkpoint"
    served = recipe.game.validation(recipe, recipe.evaluate).measure(
        partial(translate_images, opened.model)
    )
    entries = {e["images"]: e for e in run.read_log() if METRICS[name] in e}
    best = {figure: entries[result.best[0]][figure] for figure in served}
    assert best == pytest.approx(served, rel=1e-4, abs=1e-4)
    # Others are not like that.
    others = [{f: e[f] for f in served} for at, e in entries.items() if at != result.best[0]]
    assert all(other != pytest.approx(served, rel=1e-4, abs=1e-4) for other in others)


def test_a_stopped_run_from_pictures_ends_as_one_that_was_not(picture_run, tmp_path, from_pictures):
    class Enough(Exception):
        pass

    def watch(images, _):
        if images >= 96:
            raise Enough

    name, whole, result = picture_run
    run = Run(tmp_path / "stopped")
    with pytest.raises(Enough):
        train(from_pictures(name), run, watch)
    assert Checkpoint.load(run.checkpoint_path).images == 64
    assert train(from_pictures(name), run).best == result.best
    for metric in (METRICS[name], "recall", "psnr"):
        assert figures_of(run, metric) == figures_of(whole, metric)
    for path in ("checkpoint_path", "best_path"):
        one, other = (Checkpoint.load(getattr(each, path)) for each in (run, whole))
        assert one.images == other.images
        for player, weights in one.game["networks"].items():
            for key, weight in weights.items():
                assert torch.equal(weight, other.game["networks"][player][key]), key


@pytest.mark.parametrize("name", PICTURES)
def test_a_run_from_pictures_ends_early_when_asked_to(name, tmp_path, from_pictures):
    still = [f"optimizer.{player}.learning_rate=1e-12" for player in ("generator", "discriminator")]
    run = Run(tmp_path / "run")
    result = train(from_pictures(name, *still, "evaluate.patience=2", "train.images=6400"), run)
    figures = figures_of(run, METRICS[name])
    assert result.images == list(figures)[-1] == result.best[0] + 2 * 32
    assert Checkpoint.load(run.checkpoint_path).images == result.images


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_of_some_figures_more_is_better(metric, tmp_path, from_pictures):
    run = Run(tmp_path / "run")
    result = train(from_pictures("colorize-flowers", f"evaluate.metric={metric}"), run)
    figures = figures_of(run, metric)
    assert result.best == max(figures.items(), key=lambda each: each[1])
    assert len(set(figures.values())) == 5
    assert Checkpoint.load(run.best_path).images == result.best[0]


def test_a_game_refuses_the_metrics_of_another(from_pictures, digits, small_network_file):
    for name, metric, there in (
        ("colorize-flowers", "kernel_distance", "paired is one of feature_distance, psnr, ssim"),
        ("cyclegan-emoji", "psnr", "unpaired is one of kernel_distance, frechet_distance"),
    ):
        with pytest.raises(RecipeError, match=rf"^evaluate\.metric of the game {there}$"):
            from_pictures(name, f"evaluate.metric={metric}")
    with pytest.raises(RecipeError, match="the game noise_to_image is one of kernel_distance"):
        recipe(digits, small_network_file, "evaluate.metric=ssim")


def test_the_figures_of_what_is_shown_choose_nothing(tmp_path, from_pictures):
    """A sheet is of a few pairs, and drawn more often than a run is measured."""
    run = Run(tmp_path / "run")
    more = ["evaluate.metric=psnr", "train.sample_images=8", "evaluate.every_images=80"]
    heard = []
    train(from_pictures("colorize-flowers", *more), run, lambda images, _: heard.append(images))
    assert heard == [80, 160]
    assert len(figures_of(run, "shown_psnr")) == 20


@pytest.mark.parametrize(
    ("metric", "numbers", "said"),
    [
        (
            "kernel_distance",
            {"kernel_distance": 0.123456, "precision": 0.5, "recall": 0.25, "frechet_distance": 9},
            "kernel distance 0.12346, precision 50.0%, recall 25.0%",
        ),
        (
            "psnr",
            {"feature_distance": 0.25, "psnr": 17.5, "ssim": 0.5, "error": 0.1},
            "PSNR 17.5, SSIM 0.5, feature distance 0.25",
        ),
    ],
)
def test_an_evaluation_is_told_metric_first(metric, numbers, said):
    assert RunningQuality(EvaluateOptions(), metric, dict).summary(numbers) == said
