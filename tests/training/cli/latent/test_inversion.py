"""`ganymede train-encoder` and `ganymede invert`: from a model to the latent of an image."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from service.runtime.errors import UserError
from service.runtime.latent.sources import decode_floats
from service.runtime.models.manifest import read_manifest
from tests.support.command import assert_one_line_error, run
from training.cli.latent.invert import invert
from training.cli.latent.train_encoder import train_encoder


@pytest.fixture
def models(tmp_path, drawn_repository) -> Path:
    """A model repository that a test may change."""
    return Path(shutil.copytree(drawn_repository, tmp_path / "models"))


@pytest.fixture
def photograph(tmp_path) -> Path:
    """An image that is neither square nor of the models' size."""
    path = tmp_path / "photo.png"
    gradient = np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8)
    Image.fromarray(gradient).save(path)
    return path


def _call(command, *arguments: object) -> str:
    """Call a command in this process; return its output, or raise its error."""
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("name", "latent", "shape"), [("painted", "w", (6, 10)), ("cut", "z", (16,))]
)
def test_inverts_without_an_encoder(
    name, latent, shape, models, photograph, tmp_path, small_network_file
) -> None:
    out = tmp_path / "inverted"
    output = _call(
        invert, name, photograph, photograph, "--models", models, "--out", out, "--steps", 20,
        "--feature", 0, "--samples", 20, "--network", small_network_file, "--json",
    )  # fmt: skip
    content = json.loads(output[output.index("{") :])
    assert content["start"] == "nearest of 20 samples"
    record = content["images"][0]
    arrays = np.load(record["latent"])
    assert arrays[latent].shape == shape
    np.testing.assert_array_equal(decode_floats(record[latent]), arrays[latent].ravel())
    assert ("class" in record) == ("class_index" in arrays) == (name == "cut")
    assert record["after"]["psnr"] > record["before"]["psnr"]
    with Image.open(record["compared"]) as compared:
        assert compared.size == (3 * 24, 24)
    # Equal names get numbers.
    assert sorted(path.name for path in out.glob("*.npz")) == ["photo-2.npz", "photo.npz"]


@pytest.mark.slow
def test_trains_an_encoder_and_inverts_with_it(
    models, photograph, tmp_path, small_network_file
) -> None:
    common = ("--models", models, "--network", small_network_file, "--json")
    options = ("--images", 160, "--width", 16, "--measured", 10, "--candidates", 20, "--force")
    process = run("train-encoder", "cut", *map(str, (*common, *options, "--out", tmp_path / "run")))
    assert process.returncode == 0, process.stderr
    content = json.loads(process.stdout)
    assert content["added"]
    assert content["encoder"]["trained_images"] == 160
    assert read_manifest(models / "cut" / "1").encoder is not None

    out = tmp_path / "inverted"
    arguments = (photograph, "--steps", 2, "--out", out, *common)
    process = run("invert", "cut", *map(str, arguments))
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["start"].startswith("encoder")

    process = run("reproduce", str(out / "photo.png"), "--models", str(models))
    assert "identical" in process.stdout


def test_bad_input_is_one_line(models, photograph, tmp_path, small_network_file) -> None:
    (tmp_path / "text.png").write_text("not an image")
    common = ("--models", models, "--network", small_network_file)
    for arguments, words in (
        (("painted", tmp_path / "none.png"), "cannot be read"),
        (("painted", tmp_path / "text.png"), "text.png"),
        (("painted", photograph, "--class", "cat"), "it has no classes"),
        (("cut", photograph, "--class", "dragon"), "available: cat, dog, night owl"),
    ):
        with pytest.raises(UserError, match=words):
            _call(invert, *arguments, *common)
    with pytest.raises(UserError, match="--photos"):
        _call(train_encoder, "painted", "--split", "test", *common)


def test_no_image_is_replaced(models, photograph, small_network_file) -> None:
    before = photograph.read_bytes()
    options = ("--models", models, "--network", small_network_file, "--out", photograph.parent)
    with pytest.raises(UserError, match=r"photo\.png would be replaced"):
        _call(invert, "painted", photograph, *options)
    assert photograph.read_bytes() == before


def test_images_have_no_file_in_common(models, photograph, tmp_path, small_network_file) -> None:
    other = Path(shutil.copy(photograph, tmp_path / "photo-compared.png"))
    out = tmp_path / "out"
    options = ("--models", models, "--network", small_network_file, "--out", out)
    _call(invert, "painted", photograph, other, *options, "--steps", 0, "--samples", 16)
    assert {path.name for path in out.glob("*.png")} == {
        *("photo.png", "photo-compared.png"),
        *("photo-compared-2.png", "photo-compared-2-compared.png"),
    }


@pytest.mark.slow
def test_an_unknown_model_is_one_line(models, photograph) -> None:
    process = run("invert", "nowhere", str(photograph), "--models", str(models))
    assert_one_line_error(process, 2, "nowhere")
