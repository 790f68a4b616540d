import json
import shutil

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.training.quality.conftest import SIDE, drawn
from tests.training.test_distributed import train as train_with_processes
from training.checkpoints import Checkpoint
from training.data.pictures import DataOptions, Pictures
from training.export import export_run
from training.quality.running import EvaluateOptions, RunningQuality
from training.recipe import RecipeError, load_recipe
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
    from training.quality.references import open_reference
    from training.quality.statistics import kernel_distance
    from training.quality.subjects import open_subject

    run, _ = whole
    subject = open_subject(str(run.folder), tmp_path)
    pixels = np.concatenate(list(subject.pictures(60)))
    made = small_network.features(pixels).vectors
    reference = open_reference(subject.data).training
    real = reference.features(reference.rows(5_000), small_network).vectors
    last = evaluations(run)[3200]
    assert kernel_distance(made, real).value == pytest.approx(last, rel=0.02)


def test_the_best_checkpoint_can_be_exported_and_measured(whole, tmp_path):
    from training.quality.subjects import open_subject

    run, result = whole
    folder = export_run(run.at("best"), "best", tmp_path)
    assert json.loads((folder / "model.json").read_text())["provenance"]["images"] == result.best[0]
    assert "best checkpoint" in open_subject(str(run.folder), tmp_path, checkpoint="best").title
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


def test_pictures_stored_for_random_crops_are_measured_by_their_middle(small_network_file):
    pixels, labels = drawn(80, seed=1)
    wide = np.pad(pixels, ((0, 0), (2, 2), (2, 2)), constant_values=255)[..., None]
    options = EvaluateOptions(samples=60, network=str(small_network_file))
    data = DataOptions(path="pictures", resolution=SIDE, channels=1)
    quality = RunningQuality(options, data, Pictures(wide, labels, ()))
    same = quality.measure(lambda seeds: pixels[list(seeds)][..., None])
    assert same["precision"] == 1
    assert same["kernel_distance"] < 1e-3
