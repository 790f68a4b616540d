import json
import shutil

import numpy as np
import pytest
import torch

from tests.support.distributed import train_processes
from tests.support.tiny_recipes import TINY
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
def full_run(tmp_path_factory, digits, small_network_file):
    """A run of 3200 images, evaluated five times, and the result of training."""
    run = Run(tmp_path_factory.mktemp("full_run") / "run")
    return run, train(recipe(digits, small_network_file, "train.images=3200"), run)


def test_run_is_evaluated_and_best_checkpoint_kept(full_run):
    run, result = full_run
    figures = evaluations(run)
    assert list(figures) == [640, 1280, 1920, 2560, 3200]
    best = min(figures, key=figures.get)
    assert result.best == (best, figures[best])
    assert Checkpoint.load(run.best_path).images == best
    assert Checkpoint.load(run.checkpoint_path).images == 3200
    entry = next(entry for entry in run.read_log() if entry["images"] == best and "recall" in entry)
    assert 0 <= entry["precision"] <= 1
    assert entry["frechet_distance"] > 0


def test_evaluation_does_not_change_training(full_run, tmp_path, digits, small_network_file):
    run, _ = full_run
    plain = Run(tmp_path / "plain")
    train(recipe(digits, small_network_file, "train.images=3200", "evaluate=null"), plain)
    assert not plain.best_path.exists()
    one, other = (Checkpoint.load(r.checkpoint_path).game["networks"] for r in (run, plain))
    for player, weights in one.items():
        for key, weight in weights.items():
            assert torch.equal(weight, other[player][key]), key


def test_exported_model_has_the_evaluated_metric(full_run, tmp_path, small_network):
    from training.evaluation.features.references import open_reference
    from training.evaluation.metrics.kernel_distance import kernel_distance
    from training.evaluation.noise.targets import open_noise_target

    run, _ = full_run
    target = open_noise_target(str(run.folder), tmp_path)
    pixels = np.concatenate(list(target.batches(60)))
    generated = small_network.features(pixels).vectors
    reference = open_reference(target.data).training
    real = reference.features(reference.rows(5_000), small_network).vectors
    last = evaluations(run)[3200]
    assert kernel_distance(generated, real).value == pytest.approx(last, rel=0.02)


def test_best_checkpoint_can_be_exported_and_opened(full_run, tmp_path):
    from training.evaluation.noise.targets import open_noise_target

    run, result = full_run
    folder = export_run(run.at("best"), "best", tmp_path)
    assert json.loads((folder / "model.json").read_text())["provenance"]["images"] == result.best[0]
    assert (
        "best checkpoint" in open_noise_target(str(run.folder), tmp_path, checkpoint="best").title
    )
    with pytest.raises(RecipeError, match="last or best, got 'first'"):
        run.at("first")


def test_continued_run_remembers_best_evaluation(full_run, tmp_path, digits, small_network_file):
    before, _ = full_run
    run = Run(tmp_path / "run")
    shutil.copytree(before.folder, run.folder)
    watched = []
    result = train(
        recipe(digits, small_network_file, "train.images=3840"),
        run,
        lambda images, figures: watched.append((images, figures["kernel_distance"])),
    )
    figures = evaluations(run)
    assert watched == list(figures.items())
    assert list(figures)[-1] == 3840
    assert result.best == min(figures.items(), key=lambda each: each[1])
    assert Checkpoint.load(run.best_path).images == result.best[0]


def test_run_stops_early_and_stays_stopped(tmp_path, digits, small_network_file):
    # With a learning rate near 0, nothing improves once the average has settled.
    frozen = [
        "optimizer.generator.learning_rate=1e-12",
        "optimizer.discriminator.learning_rate=1e-12",
        "train.images=64000",
        "evaluate.patience=2",
    ]
    run = Run(tmp_path / "run")
    options = recipe(digits, small_network_file, *frozen, name="gan-mnist")
    result = train(options, run)
    figures = evaluations(run)
    assert result.images < 64_000
    assert result.images == list(figures)[-1] == result.best[0] + 2 * 640
    assert Checkpoint.load(run.checkpoint_path).images == result.images
    again = train(options, run)
    assert (again.images, evaluations(run)) == (result.images, figures)
    # With more patience, it continues.
    patient = options.model_copy(
        update={"evaluate": options.evaluate.model_copy(update={"patience": 4})}
    )
    assert train(patient, run).images > result.images


@pytest.mark.slow
def test_early_stop_with_classes_and_several_processes(tmp_path, digits, small_network_file):
    options = [
        *TINY["cgan-fashion"],
        f"evaluate.network={small_network_file}",
        *("evaluate.samples=40", "evaluate.every_images=1280", "evaluate.patience=1"),
        *("optimizer.generator.learning_rate=1e-12", "train.images=64000"),
    ]
    checkpoint = train_processes(digits, tmp_path / "two", "cgan-fashion", 2, *options)
    figures = evaluations(Run(tmp_path / "two"))
    assert checkpoint.images == list(figures)[-1] < 64_000


def test_watcher_can_stop_a_run(tmp_path, digits, small_network_file):
    class Stop(Exception):
        pass

    def watch(images, _):
        if images >= 1280:
            raise Stop

    run = Run(tmp_path / "run")
    with pytest.raises(Stop):
        train(recipe(digits, small_network_file, "train.images=6400"), run, watch)
    assert list(evaluations(run)) == [640]
    assert Checkpoint.load(run.checkpoint_path).images == 640


# Image-to-image runs with very small networks.
IMAGE_RECIPES = {
    "colorize-flowers": [
        *("generator.width=4", "generator.most=8", "discriminator.width=4"),
        *("data.resolution=32", "train.batch=8"),
    ],
    "cyclegan-emoji": [
        *("generator.width=4", "generator.blocks=1", "discriminator.width=4"),
        *("data.resolution=16", "source.resolution=16", "train.batch=4"),
    ],
}
# The default metric of each game.
METRICS = {"colorize-flowers": "feature_distance", "cyclegan-emoji": "kernel_distance"}


@pytest.fixture(scope="module")
def image_recipe(photographs, small_network_file):
    """Return a function that loads a recipe with 160 images, evaluated every 32 images."""

    def make(name, *more):
        paths = [f"data.path={photographs}"]
        if name == "cyclegan-emoji":
            # Both sets contain the same images, so the generators should learn the identity.
            paths += [f"source.path={photographs}"]
            for key in ("data", "source"):
                paths += [f"{key}.{each}=null" for each in ("only", "hold_out", "half")]
        sizes = ["train.images=160", "train.log_images=32", "train.checkpoint_images=32"]
        evaluate = f"evaluate={{every_images: 32, samples: 40, network: {small_network_file}}}"
        return load_recipe(name, [*IMAGE_RECIPES[name], *paths, *sizes, evaluate, *more])

    return make


def figures_of(run, metric):
    return {e["images"]: e[metric] for e in run.read_log() if metric in e}


@pytest.fixture(scope="module", params=IMAGE_RECIPES)
def image_run(request, tmp_path_factory, image_recipe):
    """The name of a recipe, its run, and the result of training."""
    run = Run(tmp_path_factory.mktemp("images") / "run")
    return request.param, run, train(image_recipe(request.param), run)


def test_image_run_is_evaluated_and_best_checkpoint_kept(image_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name, run, result = image_run
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
    assert last.keys() >= expected | {"images", "state"}
    events = EventAccumulator(str(run.tensorboard)).Reload()
    for figure in expected:
        assert [e.step for e in events.Scalars(figure)] == list(figures), figure


@pytest.mark.slow
def test_exported_best_checkpoint_has_the_evaluated_metrics(image_run, tmp_path):
    from functools import partial

    from training.evaluation.image_to_image.targets import open_image_to_image_target
    from training.preview.image_to_image import translate_images

    name, run, result = image_run
    recipe = run.recipe()
    opened = open_image_to_image_target(str(run.folder), tmp_path, checkpoint="best")
    assert opened.title == "run, best checkpoint"
    served = recipe.game.validation(recipe, recipe.evaluate).measure(
        partial(translate_images, opened.model)
    )
    entries = {e["images"]: e for e in run.read_log() if METRICS[name] in e}
    best = {figure: entries[result.best[0]][figure] for figure in served}
    assert best == pytest.approx(served, rel=1e-4, abs=1e-4)
    # The other evaluations differ.
    others = [{f: e[f] for f in served} for at, e in entries.items() if at != result.best[0]]
    assert all(other != pytest.approx(served, rel=1e-4, abs=1e-4) for other in others)


def test_interrupted_image_run_equals_uninterrupted_one(image_run, tmp_path, image_recipe):
    class Stop(Exception):
        pass

    def watch(images, _):
        if images >= 96:
            raise Stop

    name, full_run, result = image_run
    run = Run(tmp_path / "stopped")
    with pytest.raises(Stop):
        train(image_recipe(name), run, watch)
    assert Checkpoint.load(run.checkpoint_path).images == 64
    assert train(image_recipe(name), run).best == result.best
    for metric in (METRICS[name], "recall", "psnr"):
        assert figures_of(run, metric) == figures_of(full_run, metric)
    for path in ("checkpoint_path", "best_path"):
        one, other = (Checkpoint.load(getattr(each, path)) for each in (run, full_run))
        assert one.images == other.images
        for player, weights in one.game["networks"].items():
            for key, weight in weights.items():
                assert torch.equal(weight, other.game["networks"][player][key]), key


@pytest.mark.parametrize("name", IMAGE_RECIPES)
def test_image_run_stops_early(name, tmp_path, image_recipe):
    frozen = [
        f"optimizer.{player}.learning_rate=1e-12" for player in ("generator", "discriminator")
    ]
    run = Run(tmp_path / "run")
    result = train(image_recipe(name, *frozen, "evaluate.patience=2", "train.images=6400"), run)
    figures = figures_of(run, METRICS[name])
    assert result.images == list(figures)[-1] == result.best[0] + 2 * 32
    assert Checkpoint.load(run.checkpoint_path).images == result.images


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_best_checkpoint_has_highest_value_of_psnr_and_ssim(metric, tmp_path, image_recipe):
    run = Run(tmp_path / "run")
    result = train(image_recipe("colorize-flowers", f"evaluate.metric={metric}"), run)
    figures = figures_of(run, metric)
    assert result.best == max(figures.items(), key=lambda each: each[1])
    assert len(set(figures.values())) == 5
    assert Checkpoint.load(run.best_path).images == result.best[0]


def test_game_rejects_metrics_of_other_games(image_recipe, digits, small_network_file):
    for name, metric, message in (
        (
            "colorize-flowers",
            "kernel_distance",
            "paired must be one of feature_distance, psnr, ssim",
        ),
        ("cyclegan-emoji", "psnr", "unpaired must be one of kernel_distance, frechet_distance"),
    ):
        with pytest.raises(RecipeError, match=rf"^evaluate\.metric of the game {message}$"):
            image_recipe(name, f"evaluate.metric={metric}")
    with pytest.raises(RecipeError, match="the game noise_to_image must be one of kernel_distance"):
        recipe(digits, small_network_file, "evaluate.metric=ssim")


def test_metrics_of_sample_sheets_do_not_select_checkpoints(tmp_path, image_recipe):
    """Sheets contain a few pairs and are drawn more often than the run is evaluated."""
    run = Run(tmp_path / "run")
    more = ["evaluate.metric=psnr", "train.sample_images=8", "evaluate.every_images=80"]
    watched = []
    train(image_recipe("colorize-flowers", *more), run, lambda images, _: watched.append(images))
    assert watched == [80, 160]
    assert len(figures_of(run, "shown_psnr")) == 20


@pytest.mark.parametrize(
    ("metric", "numbers", "text"),
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
def test_summary_starts_with_the_selected_metric(metric, numbers, text):
    assert RunningQuality(EvaluateOptions(), metric, dict).summary(numbers) == text
