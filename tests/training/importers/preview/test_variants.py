"""Sheets of the plausible networks of a checkpoint, and the choice by images of the original."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.errors import UserError
from service.runtime.latent import seeds
from service.runtime.models.probe_inputs import probe_images
from tests.support.checkpoint_layouts.residual import resnet_shapes
from tests.support.checkpoint_layouts.sequential import dcgan_shapes, mlp_shapes
from tests.support.checkpoints import random_tensors, recognize
from training.importers.options import UserOptions
from training.importers.preview.likeness import split_tiles, statistics
from training.preview.grids import grid


def run_import(*arguments):
    command = ["import", *map(str, arguments)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def dcgan(tmp_path):
    tensors = random_tensors(dcgan_shapes(8, (8, 8), 3, bias=True), scale=0.5)
    torch.save(tensors, tmp_path / "g.pth")
    return tmp_path / "g.pth"


def samples(path, count=36, gap=0, **options):
    """Return a grid of samples of other seeds than those that are compared."""
    converted = recognize(path, UserOptions(**options)).converted
    latent = converted.latent
    z = seeds.draw(range(500, 500 + count), latent.dimension, latent.distribution)
    with torch.no_grad():
        pixels = converted.graph_specs[0].module(z=torch.from_numpy(z))[0].numpy()
    if gap:
        pixels = np.pad(pixels, ((0, 0), (gap, 0), (gap, 0), (0, 0)))
    image = np.asarray(grid(pixels))
    return np.pad(image, ((0, gap), (0, gap), (0, 0))) if gap else image


def test_writes_a_labeled_sheet_for_each_choice_and_no_model(tmp_path):
    path, sheets = dcgan(tmp_path), tmp_path / "sheets"
    output = run_import(path, "--preview", sheets, "--models", tmp_path / "models")
    files = sorted(each.name for each in sheets.iterdir())
    assert files[0] == "00-as-assumed.png"
    assert {name[3:-4] for name in files[1:]} == {
        *(f"activation-{name}" for name in ("leaky_relu", "elu", "selu", "gelu", "silu")),
        *("output-sigmoid", "output-none", "latent-uniform", "latent-unit", "norm_order-after"),
    }
    assert "latent-unit.png: distribution of z: unit (--latent unit)" in output
    assert not (tmp_path / "models").exists()
    images = [np.asarray(Image.open(sheets / name)) for name in files]
    assert images[0].shape == (4 * 16 + 40, 560, 3)
    assert len({image.tobytes() for image in images}) == len(images)
    with pytest.raises(UserError, match="expected an empty or a new folder"):
        run_import(path, "--preview", sheets)


def test_shows_both_values_of_a_property_without_a_default(tmp_path):
    shapes = {"label_emb.weight": (4, 3)} | mlp_shapes([9, 12, 48])
    torch.save(random_tensors(shapes), tmp_path / "g.pth")
    output = run_import(tmp_path / "g.pth", "--preview", tmp_path / "sheets")
    assert "--assume class_order=after" in output
    assert "--assume class_order=before" in output


@pytest.mark.parametrize("gap", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_chooses_by_samples_of_the_original(tmp_path, gap):
    path = dcgan(tmp_path)
    image = samples(path, gap=gap, activation="leaky_relu", output="sigmoid", latent="unit")
    Image.fromarray(image).save(tmp_path / "original.png")
    output = run_import(path, "--like", tmp_path / "original.png", "--models", tmp_path / "models")
    assert "activation between the layers: leaky_relu (scores: leaky_relu 0." in output
    provenance = json.loads((tmp_path / "models" / "g" / "1" / "model.json").read_text())
    chosen = {each["flag"]: each["value"] for each in provenance["provenance"]["assumptions"]}
    assert (chosen["--activation"], chosen["--output"], chosen["--latent"]) == (
        *("leaky_relu", "sigmoid", "unit"),
    )


def test_refuses_if_the_images_do_not_tell(tmp_path):
    # Without biases, the distribution of z only changes the contrast, which tanh saturates.
    tensors = random_tensors(mlp_shapes([8, 12, 48]), scale=3.0)
    tensors = {name: value * ("weight" in name) for name, value in tensors.items()}
    path = tmp_path / "g.pth"
    torch.save(tensors, path)
    arguments = [path, "--like", tmp_path / "g.png", "--models", tmp_path / "models"]
    for count, message in (
        (3, "at least 8 are needed"),
        (16, r"the images do not tell .*distribution of z \(normal or uniform\)"),
    ):
        Image.fromarray(samples(path, count=count)).save(tmp_path / "g.png")
        with pytest.raises(UserError, match=message):
            run_import(*arguments)
    Image.new("RGB", (30, 17)).save(tmp_path / "g.png")
    with pytest.raises(UserError, match="expected a grid of 4×4 samples, got 30×17"):
        run_import(*arguments)
    Image.fromarray(probe_images(range(1), 32, 3)[0]).save(tmp_path / "g.png")
    with pytest.raises(UserError, match="no choice is like the original"):
        run_import(*arguments)
    assert not (tmp_path / "models").exists()


def test_chooses_by_an_input_and_its_output(tmp_path):
    torch.save(random_tensors(resnet_shapes(1), scale=0.3), tmp_path / "g.pth")
    image = probe_images(range(1), 32, 3)
    options = UserOptions(activation="elu", assume={"padding": "zeros", "outer_padding": "zeros"})
    (spec,) = recognize(tmp_path / "g.pth", options).converted.graph_specs
    with torch.no_grad():
        output = spec.module(image=torch.from_numpy(image))[0].numpy()
    Image.fromarray(image[0]).save(tmp_path / "in.png")
    Image.fromarray(output[0]).save(tmp_path / "out.png")
    pair = ["--like", tmp_path / "in.png", "--like", tmp_path / "out.png"]
    text = run_import(tmp_path / "g.pth", *pair, "--preview", tmp_path / "sheets")
    assert "chosen: " in text
    chosen = text.partition("chosen: ")[2].splitlines()[0]
    assert "--activation elu" in chosen
    assert "--assume padding=zeros" in chosen
    assert "--assume outer_padding=zeros" in chosen
    Image.fromarray(255 - image[0]).save(tmp_path / "out.png")
    with pytest.raises(UserError, match=r"no choice is like the original.*an input and its output"):
        run_import(tmp_path / "g.pth", *pair)
    with pytest.raises(UserError, match="got 1 images; expected an input and its output"):
        run_import(tmp_path / "g.pth", *pair[:2])


def test_splits_grids_with_and_without_gaps():
    tiles = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
    for gap in (0, 1, 2):
        sheet = np.zeros((1, 2 * (8 + gap) + gap, 3 * (8 + gap) + gap, 3), np.uint8)
        for i, tile in enumerate(tiles):
            y, x = divmod(i, 3)
            top, left = gap + y * (8 + gap), gap + x * (8 + gap)
            sheet[0, top : top + 8, left : left + 8] = tile
        assert np.array_equal(split_tiles(sheet, (8, 8)), tiles)
        assert split_tiles(sheet, (9, 13)) is None
    assert np.isfinite(statistics(tiles)).all()
