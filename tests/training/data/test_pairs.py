"""Paired and unpaired batches."""

import numpy as np
import pytest
from PIL import Image

from training.data.images import DataOptions, load_images
from training.data.pairs import (
    PairedBatches,
    UnpairedBatches,
    example_pairs,
    held_out_options,
    load_matched_source,
    match_by_name,
)
from training.data.sources import DataError
from training.recipe.loading import load_recipe

SIDE = 16


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Two folders of images: image i has the value i in `dark` and 255 - i in `light`."""
    folder = tmp_path_factory.mktemp("styles")
    for style in ("dark", "light"):
        (folder / style).mkdir()
        for i in range(60):
            value = i if style == "dark" else 255 - i
            ramp = np.full((SIDE, SIDE, 3), value, np.uint8)
            ramp[:, : SIDE // 2, 0] = 0  # Makes flips visible.
            Image.fromarray(ramp).save(folder / style / f"{i:02}.png")
    return folder


def options(styles, only, **changes):
    return DataOptions(path=str(styles), only=only, resolution=SIDE, channels=3, **changes)


def recipe_for(styles, name="pix2pix-emoji", **overrides):
    values = [f"data.path={styles}", f"source.path={styles}", "data.only=light", "source.only=dark"]
    values += [f"{section}.resolution={SIDE}" for section in ("data", "source")]
    values += ["generator.width=4", "train.batch=6"]
    if name.startswith("pix2pix"):
        values += ["generator.most=4", "generator.levels=2"]
    return load_recipe(name, [*values, *(f"{key}={value}" for key, value in overrides.items())])


def test_selects_class_split_and_half(styles):
    all_names = set(options(styles, "dark").open().names)
    assert len(all_names) == 60
    assert not [name for name in all_names if "light" in name]
    train, test = (
        set(options(styles, "dark", hold_out=5, split=split).open().names)
        for split in ("train", "test")
    )
    assert train | test == all_names
    assert not train & test
    assert 4 <= len(test) <= 25
    first, second = (set(options(styles, "dark", half=half).open().names) for half in (0, 1))
    assert first | second == all_names
    assert not first & second
    assert min(len(first), len(second)) > 15
    # Halves depend on the name only: the same images in both styles.
    stems = [
        {name.rpartition("/")[2] for name in options(styles, style, half=0).open().names}
        for style in ("dark", "light")
    ]
    assert stems[0] == stems[1]
    with pytest.raises(DataError, match="no class 'red'; available: dark, light"):
        options(styles, "red").open()


def test_pairs_have_same_crops_and_flips(styles):
    recipe = recipe_for(styles)
    target = load_images(recipe.data)
    pairs = PairedBatches(recipe, recipe.game.task, target, load_matched_source(recipe, target))
    flipped = set()
    for number in range(20):
        inputs, targets = pairs[number]
        for source_image, target_image in zip(inputs.image, targets, strict=True):
            value = int(source_image[1, 0, 0])
            assert value == 255 - int(target_image[1, 0, 0])
            # The black half must be on the same side, with the same border.
            source_columns, target_columns = (
                (image[0].float().mean(0) > maximum / 2)
                for image, maximum in ((source_image, value), (target_image, 255 - value))
            )
            assert source_columns.equal(target_columns) or value < 8
            flipped.add(bool(target_columns[0]))
    assert flipped == {True, False}
    again = PairedBatches(recipe, recipe.game.task, target, load_matched_source(recipe, target))
    assert again[7][1].equal(pairs[7][1])


def test_rejects_sets_without_matching_names(styles, tmp_path):
    for i in range(3):
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"other{i}.png")
    other = load_images(DataOptions(path=str(tmp_path), resolution=SIDE, channels=3))
    with pytest.raises(DataError, match="same name"):
        match_by_name(other, load_images(options(styles, "dark")))


def test_examples_are_held_out(styles):
    recipe = recipe_for(styles, **{"data.hold_out": 5, "source.hold_out": 5})
    training = set(recipe.data.open().names)
    test = set(held_out_options(recipe.data).open().names)
    assert test
    assert not training & test
    inputs, targets = example_pairs(recipe, 4)
    values = {int(image[1, 0, 0]) for image in targets}
    assert values <= {255 - int(name[-6:-4]) for name in test}
    expected = [int(image[1, 0, 0]) for image in targets]
    assert [255 - int(image[1, 0, 0]) for image in inputs.image] == expected
    assert example_pairs(recipe, 4)[1].equal(targets)


def test_halves_of_unpaired_sets_are_disjoint(styles):
    recipe = recipe_for(styles, "cyclegan-emoji", **{"data.half": 1, "source.half": 0})
    assert recipe.source is not None
    sets = UnpairedBatches(recipe, load_images(recipe.data), load_images(recipe.source))
    sources, targets = set(), set()
    for number in range(30):
        source, target = sets[number]
        sources |= {int(image[1, 0, 0]) for image in source}
        targets |= {255 - int(image[1, 0, 0]) for image in target}
    assert sources
    assert targets
    assert not sources & targets
