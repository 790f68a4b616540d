"""Every recipe that ships trains, goes on, and exports: for seconds, on a tiny set."""

import numpy as np
import pytest
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.images import drawn_digits, write_coloured
from training.export.exporter import export_run
from training.recipe.loading import load_recipe, shipped_recipes
from training.run import Run
from training.trainer import train

# Networks as small as they go, by what the recipe's generator is.
SMALL = {
    "mlp": ["generator.widths=[32]", "discriminator.widths=[16]"],
    "dcgan": ["generator.width=8", "discriminator.width=8"],
    "biggan": ["generator.width=4", "discriminator.width=4"],
    "stylegan": [
        *("generator.w_dim=16", "generator.mapping_layers=2"),
        *("generator.width=8", "generator.most=16"),
        *("discriminator.width=8", "discriminator.most=16"),
        "game.growing={start: 16, stage_images: 16, fade_images: 16}",
    ],
    "stylegan2": [
        *("generator.w_dim=16", "generator.mapping_layers=2"),
        *("generator.width=8", "generator.most=16"),
        *("discriminator.width=8", "discriminator.most=16"),
    ],
    "unet": ["generator.width=4", "generator.most=8", "discriminator.width=4"],
    "resnet": ["generator.width=4", "generator.blocks=1", "discriminator.width=4"],
    "rrdb": [
        *("generator.width=8", "generator.growth=4", "generator.blocks=1"),
        "discriminator.width=4",
    ],
    "srresnet": ["generator.width=4", "generator.blocks=1", "discriminator.width=4"],
    "gated": ["generator.width=4", "generator.dilations=[1]", "discriminator.width=4"],
    "r3gan": [
        f"{player}.{key}={value}"
        for player in ("generator", "discriminator")
        for key, value in {"width": 8, "most": 16, "blocks": 1, "group_width": 4}.items()
    ],
}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Drawn digits in colour, a folder for each class, by how many classes there are."""
    return {count: write_coloured(tmp_path_factory.mktemp("coloured"), count) for count in (5, 10)}


FROM_NOISE = [name for name in shipped_recipes() if load_recipe(name).image_input is None]
FROM_PICTURES = sorted(shipped_recipes().keys() - set(FROM_NOISE))


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Drawn digits in two colours, a folder for each, with the same names in both."""
    folder = tmp_path_factory.mktemp("styles")
    pictures, _ = drawn_digits(40, size=32)
    for style, colour in {"red": (1, 0.2, 0.2), "blue": (0.2, 0.2, 1)}.items():
        (folder / style).mkdir()
        for i, picture in enumerate(pictures):
            pixels = (picture[..., None] * np.array(colour)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / style / f"{i}.png")
    return folder


# Twice the side in place of four times, and what photographs have gone through.
TWICE = ["game.task.factor=2", "game.task.degradation=blind"]


@pytest.mark.parametrize(
    ("name", "wish"),
    [
        *((name, []) for name in FROM_PICTURES),
        *((name, TWICE) for name in ("esrgan-flowers", "srgan-flowers")),
    ],
)
def test_a_recipe_from_pictures_trains_goes_on_and_exports(tmp_path, styles, name, wish):
    whole = load_recipe(name, wish)
    overrides = [*SMALL[whole.generator.network], *wish, f"data.path={styles}", "train.batch=4"]
    if whole.source:
        overrides += ["data.only=red", f"source.path={styles}", "source.only=blue"]
    if getattr(whole.game, "alone_images", 0):
        # A turn alone, and one with the other player.
        overrides.append("game.alone_images=4")
    run = Run(tmp_path / name)
    for turns in (2, 3):
        recipe = load_recipe(name, [*overrides, f"train.images={turns * 4}"])
        assert train(recipe, run).images == turns * 4
    model = Model(export_run(run, name, tmp_path / "models"), Provider.CPU, ExecutionPlan(1, 1, 8))
    given = model.manifest.input
    assert given is not None
    for role in given.roles:
        feeds = model.feeds(range(3))
        made = model.run(role, feeds)["pixels"]
        assert made.shape == (3, *2 * (given.side * given.factor,), whole.data.channels)
        # Any other size in steps of its own.
        wider = {key: np.concatenate([rows, rows], axis=2) for key, rows in feeds.items()}
        made = model.run(role, wider)["pixels"]
        assert made.shape[2] == 2 * given.side * given.factor


@pytest.mark.parametrize("name", FROM_NOISE)
def test_a_recipe_trains_goes_on_and_exports(tmp_path, digits, coloured, name):
    whole = load_recipe(name)
    pictures = digits if whole.data.channels == 1 else coloured[whole.classes or 10]
    turn = 16 * whole.game.discriminator_steps
    overrides = [*SMALL[whole.generator.network], f"data.path={pictures}", "train.batch=16"]
    run = Run(tmp_path / name)
    for turns in (2, 4):
        recipe = load_recipe(name, [*overrides, f"train.images={turns * turn}"])
        assert train(recipe, run).images == turns * turn
    folder = export_run(run, name, tmp_path / "models")
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    assert len(model.manifest.classes) == whole.classes
    assert model.generate(range(3)).shape == (
        3,
        whole.data.resolution,
        whole.data.resolution,
        whole.data.channels,
    )
