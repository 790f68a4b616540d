"""What `ganymede import` says, and what it leaves behind."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.errors import UserError
from tests.support.checkpoints import drawn
from tests.training.importers.formats.image.test_residual import resnet_shapes

SHAPES = {
    "main.0.weight": (6, 4, 4, 4),
    "main.3.weight": (4, 3, 4, 4),
    "main.6.weight": (3, 1, 4, 4),
}


def run(*arguments):
    result = CliRunner().invoke(app, ["import", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def failing(*arguments):
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(app, ["import", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    return str(raised.value)


@pytest.fixture
def graph(tmp_path):
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    gen (float[N,6] input_0) => (float[N,3,5,5] output_0) {
        bright = MatMul (input_0, w)
        output_0 = Reshape (bright, shape)
    }""")
    w = np.random.default_rng(0).normal(size=(6, 75)).astype(np.float32) * 0.3
    for name, value in (("w", w), ("shape", np.array([-1, 3, 5, 5]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "gen.onnx")
    return tmp_path / "gen.onnx"


def test_the_help_shows_an_example_and_every_flag():
    said = CliRunner().invoke(app, ["import", "--help"], env={"COLUMNS": "200"}).output
    assert "ganymede import latest_net_G.pth --name horse2zebra" in said
    for flag in ("--map", "--range", "--explain", "--network", "--classes", "--license"):
        assert flag in said


def test_a_known_file_is_explained_and_nothing_is_written(tmp_path):
    torch.save({"netG": drawn(SHAPES), "netD": {"a.weight": torch.zeros(2)}}, tmp_path / "g.pth")
    said = run(tmp_path / "g.pth", "--explain", "--models", tmp_path / "models")
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert f"netG: 3 tensors, {count:,} values" in said
    assert "it is DCGAN, of PyTorch's DCGAN example" in said
    assert "z: 6" in said
    assert not (tmp_path / "models").exists()


def test_an_unknown_file_is_explained_by_what_is_missing(tmp_path):
    tensors = {f"{name}.weight": torch.zeros(2, 2) for name in ("conv_first", "conv_body", "other")}
    torch.save(tensors, tmp_path / "g.pth")
    said = run(tmp_path / "g.pth", "--explain")
    assert "not ESRGAN, Real-ESRGAN (RRDB)" in said
    assert "missing: conv_hr.weight" in said
    assert "not ESRGAN" not in failing(tmp_path / "g.pth", "--models", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_graph_is_explained_by_its_ports(graph):
    said = run(graph, "--explain")
    assert "input input_0 float[?, 6]" in said
    assert "output output_0 float[?, 3, 5, 5]" in said


def test_a_graph_becomes_a_model_and_a_second_time_its_next_version(graph, tmp_path):
    flags = ["--map", "z=input_0", "--map", "pixels=output_0", "--range", "-1,1"]
    flags += ["--models", tmp_path / "models", "--license", "CC0-1.0"]
    assert "wrote" in run(graph, *flags)
    run(graph, *flags)
    made = tmp_path / "models" / "gen"
    assert sorted(path.name for path in made.iterdir()) == ["1", "2"]
    manifest = json.loads((made / "1" / "model.json").read_text())
    assert manifest["license"] == "CC0-1.0"
    assert manifest["provenance"]["format"] == "onnx"
    assert {path.name for path in (made / "1").iterdir()} == {
        *("model.json", "generator.onnx", "golden.png", "preview.webp", "README.md"),
    }
    before = (made / "1" / "model.json").read_bytes()
    # What is there is never written over.
    assert "exists already; choose another --version" in failing_export(graph, *flags)
    assert (made / "1" / "model.json").read_bytes() == before


def failing_export(graph, *flags):
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(
            app, ["import", str(graph), *map(str, flags), "--version", "1"], catch_exceptions=False
        )
    return str(raised.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--map", "z=noise"], "its inputs are input_0 float"),
        ([], "--range -1,1 or 0,1 or 0,255"),
        (["--range", "1,0"], "--range 1,0: expected black first"),
        (["--range", "0,1", "--task", "upscale"], "--task upscale"),
        (["--range", "0,1", "--layout", "chw"], "--layout chw: expected nchw or nhwc"),
        (["--range", "0,1", "--latent", "cauchy"], "--latent cauchy"),
    ],
)
def test_flags_that_do_not_fit_a_graph_are_told_by_name(graph, tmp_path, flags, says):
    assert says in failing(graph, *flags, "--models", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_thousand_class_names_are_no_path(tmp_path):
    tensors = drawn(SHAPES)
    torch.save(tensors, tmp_path / "g.pth")
    names = ",".join(f"class-{i}" for i in range(1000))
    said = failing(tmp_path / "g.pth", "--classes", 2, "--class-names", names)
    assert "--class-names has 1000 names, but the model has 2 classes" in said


def test_a_side_that_the_network_cannot_take_is_told(tmp_path):
    shapes = resnet_shapes(1)
    torch.save(drawn(shapes), tmp_path / "g.pth")
    said = failing(tmp_path / "g.pth", "--side", 50)
    assert "--side 50: expected a multiple of 4" in said


def test_a_file_that_is_not_there_is_told(tmp_path):
    for name in ("none.pth", "none.onnx"):
        assert "No such file" in failing(tmp_path / name)
