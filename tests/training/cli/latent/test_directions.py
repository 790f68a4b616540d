"""`ganymede directions`: finds, lists, names and removes directions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from service.runtime.errors import UserError
from service.runtime.latent.directions import load_directions
from service.runtime.models.manifest import read_manifest
from tests.support.command import assert_one_line_error, run
from tests.support.documentation import blocks, commands, ganymede_arguments
from training.cli.latent.directions import directions as directions_command
from training.latent.directions.errors import DirectionsError
from training.latent.directions.latents import draw, images, moved, open_model
from training.latent.directions.storage import edit_directions

ROOT = Path(__file__).parents[4]


@pytest.fixture
def models(tmp_path, drawn_repository) -> Path:
    """A model repository that a test may change."""
    return Path(shutil.copytree(drawn_repository, tmp_path / "models"))


@pytest.fixture
def directions(models, small_network_file, capsys):
    """Calls `ganymede directions` with few samples and a small network; returns its output.

    In this process, because starting one for each call would take most of the time.
    """
    app = typer.Typer()
    app.command()(directions_command)

    def call(model: str, *arguments: str) -> str:
        options = ["--models", str(models)]
        if "--method" in arguments:
            options += ["--network", str(small_network_file), "--samples", "200", "--measure", "8"]
        capsys.readouterr()
        app([model, *options, *arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def files(models: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in models.rglob("*") if path.is_file()}


def names(models: Path, model: str) -> list[str]:
    found = read_manifest(models / model / "1").directions
    return [item.name for item in found.items] if found else []


def test_finds_names_and_drops(directions, models):
    output = directions(
        "painted", "--method", "sefa", "--components", "4", "--layers", "coarse,3-4"
    )
    assert "sefa-4" in output
    assert names(models, "painted") == [f"sefa-{i}" for i in range(1, 5)]
    folder = models / "painted" / "1"
    items = read_manifest(folder).directions.items
    assert items[0].layers == (0, 1, 3, 4)
    assert items[0].figures.samples == 8
    # One unit is one standard deviation of the untruncated styles.
    model = open_model(folder)
    latents = draw(model, range(200), truncated=False).flat(items[0].layers)
    for vector in load_directions(folder, model.manifest).values():
        length = np.linalg.norm(vector)
        assert (latents @ (vector / length)).std() == pytest.approx(length, rel=1e-4)
    directions("painted", "--rename", "sefa-2=color", "--drop", "sefa-*")
    assert names(models, "painted") == ["color"]
    assert Image.open(folder / "direction-color.webp").size == (7 * 72, 4 * 72)


def test_runs_are_deterministic_and_keep_others(directions, models):
    arguments = ("--method", "ganspace", "--component", "2", "--name", "second", "--json")
    directions("cut", "--method", "sefa", "--components", "1")
    outputs, states = [], []
    for _ in range(2):
        outputs.append(json.loads(directions("cut", *arguments)))
        states.append(files(models))
    assert outputs[0] == outputs[1]
    assert states[0] == states[1]
    content = outputs[0]
    assert content["model"] == "cut@1"
    assert [each["name"] for each in content["directions"]] == ["sefa-1", "second"]
    second = content["directions"][1]
    assert (second["space"], second["description"]) == ("z", "component 2")
    assert Path(second["strip"]).is_file()
    assert second["figures"]["random_effect"] > 0
    assert json.loads(directions("cut", "--json")) == content


def test_boundary_between_classes(directions, models):
    directions("painted-classes", "--method", "boundary", "--between", "cat", "night owl")
    (item,) = read_manifest(models / "painted-classes" / "1").directions.items
    assert item.name == "cat-to-night-owl"
    assert item.description.startswith("from class cat to night owl, accuracy ")
    assert "other classes" in item.figures.drift_of


@pytest.mark.parametrize("model", ["movable", "movable-classes"])
def test_boundary_between_two_folders_of_images(directions, models, tmp_path, model):
    """Images on both sides of a known direction are inverted, and the direction is found."""
    opened = open_model(models / model / "1")
    known = load_directions(opened.folder, opened.manifest)
    item = opened.manifest.directions.items[0]
    for side, amount in (("small", -2), ("large", 2)):
        (tmp_path / side).mkdir()
        samples = moved(draw(opened, range(24)), known[item.name], item.layers, amount)
        for i, pixels in enumerate(images(opened, samples)):
            # Larger than the images of the model: they are resized.
            enlarged = pixels.repeat(2, axis=0).repeat(2, axis=1)
            Image.fromarray(enlarged).save(tmp_path / side / f"{i}.png")
    directions(
        *(model, "--method", "boundary", "--measure", "0"),
        *("--from", str(tmp_path / "small"), "--to", str(tmp_path / "large")),
        *(("--layers", ",".join(map(str, item.layers))) if item.layers else ()),
    )
    folder = models / model / "1"
    vectors = load_directions(folder, read_manifest(folder))
    found, expected = vectors["small-to-large"], known[item.name]
    similarity = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
    assert similarity > 0.8
    assert "from 24 images of small to 24 of large" in read_manifest(folder).model_dump_json()


def test_unreadable_image_is_named(directions, models, tmp_path):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / side / "good.png")
        (tmp_path / side / "bad.png").write_bytes(b"not an image")
    folders = ("--from", str(tmp_path / "a"), "--to", str(tmp_path / "b"))
    with pytest.raises(DirectionsError, match=r"bad\.png in .*/a cannot be read"):
        directions("movable", "--method", "boundary", *folders)


def test_directions_orthogonal_to_an_existing_one(directions, models):
    (first, *_) = read_manifest(models / "movable" / "1").directions.items
    directions("movable", "--method", "sefa", "--component", "1", "--orthogonal-to", first.name)
    vectors = load_directions(models / "movable" / "1", read_manifest(models / "movable" / "1"))
    assert vectors["sefa-1"] @ vectors[first.name] == pytest.approx(0, abs=1e-5)
    item = read_manifest(models / "movable" / "1").directions.items[-1]
    assert item.description == f"component 1, orthogonal to {first.name}"


def test_without_figures(directions, models):
    directions("painted", "--method", "sefa", "--components", "1", "--measure", "0")
    assert read_manifest(models / "painted" / "1").directions.items[0].figures is None


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("painted", ["--name", "smile"], ["--name", "--method is missing"]),
        ("painted", ["--seed", "0"], ["--method is missing", "--seed"]),
        ("painted", ["--rename", "a=b", "--class", "1"], ["--method is missing", "--class"]),
        ("painted", ["--method", "sefa", "--name", "smile"], ["10 directions, got 1"]),
        ("painted", ["--method", "sefa", "--component", "11"], ["components 1 to 10, not 11"]),
        ("painted", ["--method", "sefa", "--layers", "4-9"], ["from 0 to 5, got 6"]),
        ("painted", ["--method", "sefa", "--layers", "huge"], ["no layers 'huge'"]),
        ("cut", ["--method", "sefa", "--layers", "1"], ["cut has no style layers"]),
        ("painted", ["--method", "boundary"], ["needs labels"]),
        ("painted", ["--method", "sefa", "--attribute", "1"], ["--attribute is for --classifier"]),
        ("painted", ["--method", "boundary", "--between", "cat", "dog"], ["not class-conditional"]),
        ("cut", ["--method", "boundary", "--between", "cat", "dog"], ["z of cut"]),
        ("cut", ["--method", "boundary", "--between", "cat", "cow"], ["unknown class 'cow'"]),
        ("cut", ["--method", "sefa", "--class", "9"], ["--class", "from 0 to 2"]),
        ("painted", ["--method", "sefa", "--orthogonal-to", "age"], ["no direction 'age'"]),
        ("painted", ["--method", "boundary", "--from", "."], ["--from and --to"]),
        (
            "painted",
            ["--method", "boundary", "--from", ".", "--to", "."],
            ["painted has no encoder", "ganymede train-encoder painted"],
        ),
        (
            "painted",
            ["--method", "boundary", "--between", "a", "b", "--from", ".", "--to", "."],
            ["either --between, or --classifier, or --from and --to"],
        ),
        ("painted", ["--rename", "smile"], ["OLD=NEW"]),
        ("painted", ["--drop", "smile"], ["no direction 'smile'; available: none"]),
        ("painted", ["--method", "sefa", "--seed", str(2**32 - 5)], ["must not exceed 4294967295"]),
        ("missing", ["--method", "sefa"], ["missing"]),
    ],
)
def test_invalid_options_change_nothing(directions, models, model, arguments, words):
    before = files(models)
    with pytest.raises(UserError) as caught:
        directions(model, *arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert files(models) == before


def test_image_to_image_models_have_no_latent_space(tmp_path):
    folder = shutil.copytree(ROOT / "models" / "inpaint-flowers" / "1", tmp_path / "inpaint" / "1")
    result = run("directions", folder, "--method", "sefa", "--measure", "0")
    assert_one_line_error(result, 2, "it has no latent space")


@pytest.mark.slow
def test_commands_in_the_documentation_find_the_shipped_directions(tmp_path):
    """The block of docs/directions.md names the commands that the shipped directions come from."""
    shipped = ROOT / "models" / "stylegan2-flowers" / "1"
    folder = Path(shutil.copytree(shipped, tmp_path / "stylegan2-flowers" / "1"))
    expected = load_directions(shipped, read_manifest(shipped))
    directions_file = (folder / "directions.npz").read_bytes()
    edit_directions(folder, {}, (), ["*"])
    document = Path("docs/directions.md")
    (block,) = [block for block in blocks(document) if block.tests]
    for command in commands(block):
        result = run(*ganymede_arguments(command), "--models", tmp_path, "--measure", "0")
        assert result.returncode == 0, result.stderr
    found = load_directions(folder, read_manifest(folder))
    assert list(found) == list(expected)
    for name, vector in found.items():
        np.testing.assert_allclose(vector, expected[name], atol=1e-3)
    assert len(directions_file) == (folder / "directions.npz").stat().st_size


def test_shipped_directions_have_more_effect_than_random_ones():
    manifest = read_manifest(ROOT / "models" / "stylegan2-flowers" / "1")
    assert len(manifest.directions.items) >= 3
    for item in manifest.directions.items:
        assert item.figures.effect > 2 * item.figures.random_effect
        assert (ROOT / "models" / "stylegan2-flowers" / "1" / item.strip).is_file()
