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
    """Pictures of which none are held out."""
    return write_images(tmp_path_factory.mktemp("plain"), noisy_digits(60, seed=3)[0])


def colours(folder, *more):
    """A recipe that makes of grey pictures coloured ones, and sees a part of each at a time."""
    data = [f"data.path={folder}", "data.resolution=32", "data.stored=64"]
    return load_recipe("colorize-flowers", [*data, *more])


def sides(folder, *more):
    """A recipe that goes between the digits 0 and 1."""
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


def test_pictures_stored_for_random_crops_are_measured_by_their_middle(tmp_path, options):
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


def test_noise_is_held_against_what_is_learnt_or_what_is_held_out(splits, plain, options):
    data = DataOptions(path=str(splits), resolution=SIDE, channels=1)
    for against, split in ((None, "train"), ("training", "train"), ("held_out", "test")):
        true = load_images(data.model_copy(update={"split": split})).pixels
        gauge = NoiseToImageValidation(options(against=against, samples=len(true)), data)
        assert gauge.measure(lambda _, true=true: np.asarray(true))["recall"] == 1, against
        other = load_images(
            data.model_copy(update={"split": {"train": "test"}.get(split, "train")})
        )
        assert gauge.measure(lambda _, other=other: np.asarray(other.pixels))["recall"] < 1
    with pytest.raises(QualityError, match=r"evaluate\.against: .* has no held-out images"):
        NoiseToImageValidation(
            options(against="held_out"), data.model_copy(update={"path": str(plain)})
        )


def test_pairs_that_choose_are_none_that_are_measured_first(photographs):
    def seen(given_and_wanted):
        return {picture.tobytes() for picture in channels_last(given_and_wanted[1])}

    recipe = colours(photographs)
    chosen, left = (seen(validation_pairs(recipe, 100, half)) for half in ("last", "first"))
    whole = seen(example_pairs(recipe, None))
    assert (len(whole), len(chosen), len(left)) == (12, 6, 6)
    assert chosen | left == whole
    assert seen(example_pairs(recipe, 6)) == left
    assert len(seen(validation_pairs(recipe, 4, "last")) & chosen) == 4
    one = colours(photographs, "data.split=test", "data.limit=1")
    assert (
        seen(validation_pairs(one, 9, "last")) == seen(validation_pairs(one, 9, "first")) != set()
    )


def test_pairs_are_held_out_ones_unless_the_recipe_says_otherwise(photographs, plain, options):
    def wanted(recipe, **more):
        asked = []

        def make(given, _):
            asked.append(given.image.shape)
            return gauge._targets

        gauge = PairedValidation(recipe, options(**more))
        figures = gauge.measure(make)
        assert figures["psnr"] == MAX_PSNR
        assert figures["ssim"] == pytest.approx(1)
        assert figures["feature_distance"] == pytest.approx(0, abs=1e-6)
        assert figures["error"] == 0
        return gauge.title.rpartition(" ")[2], *asked[0]

    recipe = colours(photographs)
    # Held-out pictures are whole, and those that are learnt the middle of what crops are cut from.
    assert wanted(recipe) == wanted(recipe, against="held_out") == ("test", 6, 3, 64, 64)
    assert wanted(recipe, against="training") == ("train", 24, 3, 32, 32)
    # Where none are held out those that are learnt stand in, unless they are asked for.
    assert wanted(colours(plain)) == ("train", 60, 3, 32, 32)
    with pytest.raises(QualityError, match="has no held-out images"):
        PairedValidation(colours(plain), options(against="held_out"))


def test_what_confirms_are_pairs_that_chose_nothing(photographs, options):
    recipe = colours(photographs)
    for against in (None, "training"):
        asked = {}
        for confirms in (False, True):
            gauge = PairedValidation(recipe, options(against=against), confirms=confirms)
            asked[confirms] = {picture.tobytes() for picture in gauge._targets}
            assert confirms <= gauge.title.endswith("test")
        assert not asked[False] & asked[True]


def test_two_sets_are_measured_in_both_directions_and_by_their_mean(splits, options):
    recipe = sides(splits / "train")
    zeros, ones = (load_images(each).pixels for each in (recipe.source, recipe.data))
    there, back = recipe.game.directions
    gauge = UnpairedValidation(recipe, options())
    # The way there makes the very pictures, the way back leaves them as they are.
    asked = {}

    def make(given, direction):
        asked[direction] = channels_last(given.image)
        return np.asarray(ones) if direction == there else asked[direction]

    figures = gauge.measure(make)
    np.testing.assert_array_equal(asked[there], zeros)
    assert figures[f"recall/{there}"] == 1
    assert figures[f"kernel_distance/{there}"] < 1e-3 < figures[f"kernel_distance/{back}"]
    for name in ("kernel_distance", "frechet_distance", "precision", "recall"):
        ways = [figures[f"{name}/{way}"] for way in (there, back)]
        assert figures[name] == pytest.approx(np.mean(ways))
    fewer = UnpairedValidation(recipe, options(samples=12))
    fewer.measure(make)
    assert len(asked[back]) == 12


def test_two_sets_may_be_measured_by_what_is_held_out(splits, options):
    held = sides(splits / "train", "data.hold_out=3", "source.hold_out=3")
    for gauge, is_held in (
        (UnpairedValidation(held, options()), False),
        (UnpairedValidation(held, options(against="held_out")), True),
        (UnpairedValidation(held, options(), confirms=True), True),
    ):
        asked = []
        gauge.measure(
            lambda given, _, asked=asked: asked.append(channels_last(given.image)) or asked[-1]
        )
        assert gauge.title.endswith("test" if is_held else "train")
        learnt = [load_images(each).pixels for each in (held.source, held.data)]
        for given, pictures in zip(asked, learnt, strict=True):
            shared = {p.tobytes() for p in given} & {p.tobytes() for p in pictures}
            assert bool(shared) != is_held
    with pytest.raises(QualityError, match="has no held-out images"):
        UnpairedValidation(sides(splits / "train"), options(against="held_out"))
    few = sides(splits / "train", "data.limit=9")
    with pytest.raises(QualityError, match="has 9 images; at least 10 are needed"):
        UnpairedValidation(few, options())
