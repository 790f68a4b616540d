"""Every shipped recipe trains, resumes and exports, with tiny networks and data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.images import drawn_digits, write_colored
from tests.support.marks import slow_except
from training.captions.encoders import open_encoder
from training.export.exporter import export_run
from training.recipe.loading import load_recipe, shipped_recipes
from training.run import Run
from training.trainer import train

# Overrides for the smallest networks, by the generator's network; others train at their size.
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
    "fastgan": [
        *("generator.width=2", "generator.z_dim=8"),
        *("discriminator.width=4", "discriminator.most=8"),
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
def colored(tmp_path_factory):
    """Data sets of colored digits by number of classes; each has one folder per class."""
    return {count: write_colored(tmp_path_factory.mktemp("colored"), count) for count in (5, 10)}


FROM_TEXT = ["text2emoji", "text2tiles"]
FROM_NOISE = [
    name for name in shipped_recipes() if load_recipe(name).game.served_task == "generate"
]
FROM_IMAGES = [name for name in shipped_recipes() if load_recipe(name).image_input is not None]


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Digits in red and in blue: two folders with the same file names."""
    folder = tmp_path_factory.mktemp("styles")
    images, _ = drawn_digits(40, size=32)
    for style, color in {"red": (1, 0.2, 0.2), "blue": (0.2, 0.2, 1)}.items():
        (folder / style).mkdir()
        for i, image in enumerate(images):
            pixels = (image[..., None] * np.array(color)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / style / f"{i}.png")
    return folder


# Upscaling by 2 instead of 4, with the degradations of photographs.
TWICE = ["game.task.factor=2", "game.task.degradation=blind"]


@pytest.mark.parametrize(
    ("name", "options"),
    slow_except(
        ("pix2pix-emoji", []),
        [
            *((name, []) for name in FROM_IMAGES),
            *((name, TWICE) for name in ("esrgan-flowers", "srgan-flowers")),
        ],
    ),
)
def test_image_to_image_recipe_trains_resumes_and_exports(tmp_path, styles, name, options):
    defaults = load_recipe(name, options)
    overrides = [
        *SMALL.get(defaults.generator.network, []),
        *options,
        f"data.path={styles}",
        "train.batch=4",
    ]
    if defaults.source:
        overrides += ["data.only=red", f"source.path={styles}", "source.only=blue"]
    if getattr(defaults.game, "alone_images", 0):
        # The first turn trains the generator alone, the second one both networks.
        overrides.append("game.alone_images=4")
    run = Run(tmp_path / name)
    for turns in (2, 3):
        recipe = load_recipe(name, [*overrides, f"train.images={turns * 4}"])
        assert train(recipe, run).images == turns * 4
    model = Model(export_run(run, name, tmp_path / "models"), Provider.CPU, ExecutionPlan(1, 1, 8))
    spec = model.manifest.input
    assert spec is not None
    for role in spec.roles:
        feeds = model.feeds(range(3))
        outputs = model.run(role, feeds)["pixels"]
        assert outputs.shape == (3, *2 * (spec.side * spec.factor,), defaults.data.channels)
        # Other sizes are possible in multiples of the model's step.
        wider = {key: np.concatenate([rows, rows], axis=2) for key, rows in feeds.items()}
        outputs = model.run(role, wider)["pixels"]
        assert outputs.shape[2] == 2 * spec.side * spec.factor


@pytest.mark.parametrize("name", slow_except("gan-mnist", FROM_NOISE))
def test_noise_recipe_trains_resumes_and_exports(tmp_path, digits, colored, name):
    defaults = load_recipe(name)
    images = digits if defaults.data.channels == 1 else colored[defaults.classes or 10]
    turn = 16 * defaults.game.discriminator_steps
    overrides = [
        *SMALL.get(defaults.generator.network, []),
        f"data.path={images}",
        "train.batch=16",
    ]
    run = Run(tmp_path / name)
    for turns in (2, 4):
        recipe = load_recipe(name, [*overrides, f"train.images={turns * turn}"])
        assert train(recipe, run).images == turns * turn
    folder = export_run(run, name, tmp_path / "models")
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    assert len(model.manifest.classes) == defaults.classes
    assert model.generate(range(3)).shape == (
        3,
        defaults.data.resolution,
        defaults.data.resolution,
        defaults.data.channels,
    )


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Colored digits in two styles, with captions in `metadata.jsonl`."""
    folder = write_colored(tmp_path_factory.mktemp("captioned"), 2)
    stems = {path.stem for path in folder.rglob("*.png")}
    lines = [{"id": stem, "text": f"digit {i}", "tags": ["ink"]} for i, stem in enumerate(stems)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.mark.parametrize("name", slow_except("text2tiles", FROM_TEXT))
def test_text_recipe_trains_resumes_and_exports(tmp_path, monkeypatch, captioned, name):
    monkeypatch.setenv("GANYMEDE_MODELS", str(Path(__file__).parents[3] / "models"))
    overrides = [*SMALL["stylegan2"], f"data.path={captioned}", "data.resolution=16"]
    overrides += ["train.batch=8", "data.hold_out=4"]
    run = Run(tmp_path / name)
    for turns in (1, 2):
        recipe = load_recipe(name, [*overrides, f"train.images={turns * 8}"])
        assert train(recipe, run).images == turns * 8
    model = Model(export_run(run, name, tmp_path / "models"), Provider.CPU, ExecutionPlan(1, 1, 8))
    manifest = model.manifest
    assert manifest.task == "text-to-image"
    assert manifest.text_input.encoder == "wordllama"
    assert manifest.text_input.encoder_digest == open_encoder("wordllama").manifest.digest
    assert model.generate(range(3)).shape == (3, 16, 16, 3)
    assert (run.folder / "samples" / "0000000016.png").is_file()
