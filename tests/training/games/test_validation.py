import numpy as np
import pytest

from tests.support.evaluation import SIDE, noisy_digits, write_images
from training.data.images import DataOptions, load_images
from training.data.pairs import example_pairs, validation_pairs
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.errors import QualityError
from training.evaluation.metrics.pairs import MAX_PSNR
from training.games.noise_to_image.validation import NoiseToImageValidation
from training.games.paired.validation import PairedValidation
from training.games.unpaired.validation import UnpairedValidation
from training.preview.image_to_image import channels_last
from training.recipe.loading import load_recipe


@pytest.fixture
def options(small_network_file):
    def make(**more):
        return EvaluateOptions(**{"samples": 60, "network": str(small_network_file), **more})

    return make


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Images without a held-out split."""
    return write_images(tmp_path_factory.mktemp("plain"), noisy_digits(60, seed=3)[0])


def colorize_recipe(folder, *more):
    """Return a recipe that colorizes gray images and trains on random crops."""
    data = [f"data.path={folder}", "data.resolution=32", "data.stored=64"]
    return load_recipe("colorize-flowers", [*data, *more])


def unpaired_recipe(folder, *more):
    """Return a recipe that translates between the digits 0 and 1."""
    both = [
        f"{key}.{name}={value}"
        for key in ("data", "source")
        for name, value in {
            "path": folder,
            "resolution": SIDE,
            "hold_out": "null",
            "crop": "centre",
            "half": "null",
        }.items()
    ]
    only = ["data.only='1'", "source.only='0'"]
    return load_recipe("cyclegan-emoji", [*both, *only, *more])


def test_random_crop_images_are_measured_by_center_crops(tmp_path, options):
    inside, _ = noisy_digits(80, seed=1)
    wide = np.pad(inside, ((0, 0), (1, 2), (1, 2)), constant_values=255)
    folder = write_images(tmp_path / "wide", wide)
    data = DataOptions(path=str(folder), resolution=SIDE, channels=1, crop="random")
    assert data.stored_size == SIDE + 3
    same = NoiseToImageValidation(options(), data).measure(
        lambda seeds: inside[list(seeds)][..., None]
    )
    assert same["precision"] == 1
    assert same["kernel_distance"] < 1e-3


def test_noise_to_image_compares_with_training_or_held_out_images(splits, plain, options):
    data = DataOptions(path=str(splits), resolution=SIDE, channels=1)
    for against, split in ((None, "train"), ("training", "train"), ("held_out", "test")):
        true = load_images(data.model_copy(update={"split": split})).pixels
        validation = NoiseToImageValidation(options(against=against, samples=len(true)), data)
        assert validation.measure(lambda _, true=true: np.asarray(true))["recall"] == 1, against
        other = load_images(
            data.model_copy(update={"split": {"train": "test"}.get(split, "train")})
        )
        assert validation.measure(lambda _, other=other: np.asarray(other.pixels))["recall"] < 1
    with pytest.raises(QualityError, match=r"evaluate\.against: .* has no held-out images"):
        NoiseToImageValidation(
            options(against="held_out"), data.model_copy(update={"path": str(plain)})
        )


def test_validation_pairs_differ_from_example_pairs(photographs):
    def target_bytes(pairs):
        return {image.tobytes() for image in channels_last(pairs[1])}

    recipe = colorize_recipe(photographs)
    chosen, left = (target_bytes(validation_pairs(recipe, 100, half)) for half in ("last", "first"))
    full = target_bytes(example_pairs(recipe, None))
    assert (len(full), len(chosen), len(left)) == (12, 6, 6)
    assert chosen | left == full
    assert target_bytes(example_pairs(recipe, 6)) == left
    assert len(target_bytes(validation_pairs(recipe, 4, "last")) & chosen) == 4
    one = colorize_recipe(photographs, "data.split=test", "data.limit=1")
    assert (
        target_bytes(validation_pairs(one, 9, "last"))
        == target_bytes(validation_pairs(one, 9, "first"))
        != set()
    )


def test_pairs_are_held_out_by_default(photographs, plain, options):
    def data_of(recipe, **more):
        shapes = []

        def translate(inputs, _):
            shapes.append(inputs.image.shape)
            return validation._targets

        validation = PairedValidation(recipe, options(**more))
        figures = validation.measure(translate)
        assert figures["psnr"] == MAX_PSNR
        assert figures["ssim"] == pytest.approx(1)
        assert figures["feature_distance"] == pytest.approx(0, abs=1e-6)
        assert figures["error"] == 0
        return validation.title.rpartition(" ")[2], *shapes[0]

    recipe = colorize_recipe(photographs)
    # Held-out images are not cropped; training images are center crops.
    assert data_of(recipe) == data_of(recipe, against="held_out") == ("test", 6, 3, 64, 64)
    assert data_of(recipe, against="training") == ("train", 24, 3, 32, 32)
    # Without held-out images, training images are used, unless held-out ones are required.
    assert data_of(colorize_recipe(plain)) == ("train", 60, 3, 32, 32)
    with pytest.raises(QualityError, match="has no held-out images"):
        PairedValidation(colorize_recipe(plain), options(against="held_out"))


def test_confirmation_pairs_differ_from_validation_pairs(photographs, options):
    recipe = colorize_recipe(photographs)
    for against in (None, "training"):
        received = {}
        for confirms in (False, True):
            validation = PairedValidation(recipe, options(against=against), confirms=confirms)
            received[confirms] = {image.tobytes() for image in validation._targets}
            assert confirms <= validation.title.endswith("test")
        assert not received[False] & received[True]


def test_unpaired_sets_are_measured_in_both_directions(splits, options):
    recipe = unpaired_recipe(splits / "train")
    zeros, ones = (load_images(each).pixels for each in (recipe.source, recipe.data))
    forward, backward = recipe.game.directions
    validation = UnpairedValidation(recipe, options())
    # One direction returns the target images, the other one its inputs.
    received = {}

    def translate(inputs, direction):
        received[direction] = channels_last(inputs.image)
        return np.asarray(ones) if direction == forward else received[direction]

    figures = validation.measure(translate)
    np.testing.assert_array_equal(received[forward], zeros)
    assert figures[f"recall/{forward}"] == 1
    assert figures[f"kernel_distance/{forward}"] < 1e-3 < figures[f"kernel_distance/{backward}"]
    for name in ("kernel_distance", "frechet_distance", "precision", "recall"):
        values = [figures[f"{name}/{direction}"] for direction in (forward, backward)]
        assert figures[name] == pytest.approx(np.mean(values))
    fewer = UnpairedValidation(recipe, options(samples=12))
    fewer.measure(translate)
    assert len(received[backward]) == 12


def test_unpaired_sets_can_be_compared_with_held_out_images(splits, options):
    held = unpaired_recipe(splits / "train", "data.hold_out=3", "source.hold_out=3")
    for validation, is_held in (
        (UnpairedValidation(held, options()), False),
        (UnpairedValidation(held, options(against="held_out")), True),
        (UnpairedValidation(held, options(), confirms=True), True),
    ):
        received = []
        validation.measure(
            lambda inputs, _, received=received: (
                received.append(channels_last(inputs.image)) or received[-1]
            )
        )
        assert validation.title.endswith("test" if is_held else "train")
        training = [load_images(each).pixels for each in (held.source, held.data)]
        for inputs, images in zip(received, training, strict=True):
            shared = {p.tobytes() for p in inputs} & {p.tobytes() for p in images}
            assert bool(shared) != is_held
    with pytest.raises(QualityError, match="has no held-out images"):
        UnpairedValidation(unpaired_recipe(splits / "train"), options(against="held_out"))
    few = unpaired_recipe(splits / "train", "data.limit=9")
    with pytest.raises(QualityError, match="has 9 images; at least 10 are needed"):
        UnpairedValidation(few, options())
