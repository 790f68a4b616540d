"""The command `ganymede import`: its output, its errors and the files that it writes."""

import json
import shlex
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.errors import UserError
from tests.support.checkpoint_layouts.residual import resnet_shapes
from tests.support.checkpoints import random_tensors

SHAPES = {
    "main.0.weight": (6, 4, 4, 4),
    "main.3.weight": (4, 3, 4, 4),
    "main.6.weight": (3, 1, 4, 4),
}


def run_import(*arguments):
    result = CliRunner().invoke(app, ["import", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def import_error(*arguments):
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


def test_help_has_an_example_and_every_option():
    output = CliRunner().invoke(app, ["import", "--help"], env={"COLUMNS": "200"}).output
    assert "ganymede import latest_net_G.pth --name horse2zebra" in output
    for option in ("--map", "--range", "--explain", "--network", "--classes", "--license"):
        assert option in output


def test_explains_a_known_format(tmp_path):
    tensors = random_tensors(SHAPES)
    torch.save({"netG": tensors, "netD": {"a.weight": torch.zeros(2)}}, tmp_path / "g.pth")
    output = run_import(tmp_path / "g.pth", "--explain", "--models", tmp_path / "models")
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert f"netG: 3 tensors, {count:,} values" in output
    assert "matches DCGAN, from PyTorch's DCGAN example" in output
    assert "z: 6" in output
    assert not (tmp_path / "models").exists()


def test_explains_missing_keys_of_an_unknown_format(tmp_path):
    near = ("conv_first", "body.0.rdb1.conv1", "body.0.rdb3.conv5", "conv_body", "other")
    tensors = {f"{name}.weight": torch.zeros(2, 2) for name in near}
    torch.save(tensors, tmp_path / "g.pth")
    output = run_import(tmp_path / "g.pth", "--explain")
    assert "does not match ESRGAN, Real-ESRGAN (RRDB)" in output
    assert "missing: conv_hr.weight" in output
    assert "does not match" not in import_error(tmp_path / "g.pth", "--models", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_explains_inputs_and_outputs_of_a_graph(graph):
    output = run_import(graph, "--explain")
    assert "input input_0 float[?, 6]" in output
    assert "output output_0 float[?, 3, 5, 5]" in output


def test_writes_new_versions_and_never_overwrites(graph, tmp_path):
    options = ["--map", "z=input_0", "--map", "pixels=output_0", "--range", "-1,1"]
    options += ["--models", tmp_path / "models", "--license", "CC0-1.0"]
    assert "wrote" in run_import(graph, *options)
    run_import(graph, *options)
    model = tmp_path / "models" / "gen"
    assert sorted(path.name for path in model.iterdir()) == ["1", "2"]
    manifest = json.loads((model / "1" / "model.json").read_text())
    assert manifest["license"] == "CC0-1.0"
    assert manifest["provenance"]["format"] == "onnx"
    assert {path.name for path in (model / "1").iterdir()} == {
        *("model.json", "generator.onnx", "golden.png", "preview.webp", "README.md"),
    }
    content = (model / "1" / "model.json").read_bytes()
    with pytest.raises(UserError, match="exists already; choose another --version"):
        run_import(graph, *options, "--version", "1")
    assert (model / "1" / "model.json").read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map", "z=noise"], "its inputs are input_0 float"),
        ([], "--range -1,1 or 0,1 or 0,255"),
        (["--range", "1,0"], "--range 1,0: expected black first"),
        (["--range", "0,1", "--task", "upscale"], "--task upscale"),
        (["--range", "0,1", "--layout", "chw"], "--layout chw: expected nchw or nhwc"),
        (["--range", "0,1", "--latent", "cauchy"], "--latent cauchy"),
    ],
)
def test_rejects_options_that_do_not_fit_the_graph(graph, tmp_path, options, message):
    assert message in import_error(graph, *options, "--models", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_does_not_read_a_long_list_of_class_names_as_a_path(tmp_path):
    torch.save(random_tensors(SHAPES), tmp_path / "g.pth")
    names = ",".join(f"class-{i}" for i in range(1000))
    message = import_error(tmp_path / "g.pth", "--classes", 2, "--class-names", names)
    assert "--class-names has 1000 names, but the model has 2 classes" in message


def test_rejects_unsupported_side(tmp_path):
    torch.save(random_tensors(resnet_shapes(1)), tmp_path / "g.pth")
    message = import_error(tmp_path / "g.pth", "--side", 50)
    assert "--side 50: expected a multiple of 4" in message


@pytest.mark.parametrize("name", ["none.pth", "none.onnx"])
def test_rejects_missing_file(tmp_path, name):
    assert "No such file" in import_error(tmp_path / name)


def test_rejects_preview_folder_without_images(tmp_path):
    torch.save(random_tensors(SHAPES), tmp_path / "g.pth")
    assert "contains no images" in import_error(tmp_path / "g.pth", "--pictures", tmp_path)


def test_states_assumptions_in_output_manifest_and_card(tmp_path):
    tensors = random_tensors(SHAPES)
    torch.save({"G": tensors, "D": {"0.weight": torch.ones(2, 1, 4, 4)}}, tmp_path / "g.pth")
    models = ["--models", tmp_path / "models"]
    output = run_import(tmp_path / "g.pth", *models, "--activation", "leaky_relu")
    assert "  slope of LeakyReLU: 0.2 (--assume slope=0.01)" in output
    assert "  distribution of z: normal (--latent uniform | unit)" in output
    assert "  activation between the layers: leaky_relu (from --activation)" in output
    assert "  discriminator: D (1 tensor)" in output
    folder = tmp_path / "models" / "g" / "1"
    provenance = json.loads((folder / "model.json").read_text())["provenance"]
    assert {
        "subject": "slope of LeakyReLU",
        "value": "0.2",
        "source": "assumed",
        "flag": "--assume slope",
    } in provenance["assumptions"]
    assert provenance["left_out"] == ["discriminator: D (1 tensor)"]
    card = (folder / "README.md").read_text()
    assert "- slope of LeakyReLU: 0.2 (assumed; `--assume slope` changes it)" in card
    assert "- discriminator: D (1 tensor)" in card
    assert "slope of LeakyReLU: 0.01" in run_import(
        tmp_path / "g.pth", *models, "--activation", "leaky_relu", "--assume", "slope=0.01"
    )
    assert "the tensors do not determine:" in run_import(tmp_path / "g.pth", "--explain")


def test_unknown_network_ends_with_a_script_for_its_export(tmp_path, monkeypatch):
    class Generator(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(7, 12)
            self.gates = torch.nn.Linear(7, 12)
            self.last = torch.nn.Linear(12, 3 * 8 * 8)

        def forward(self, z):
            x = self.first(z) * torch.sigmoid(self.gates(z))
            return torch.tanh(self.last(x)).reshape(-1, 3, 8, 8)

    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in Generator().state_dict().items()}
    torch.save({"epoch": 3, "netG": state}, tmp_path / "own.pth")
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(app, ["import", str(tmp_path / "own.pth")], catch_exceptions=False)
    lines = raised.value.advice.splitlines()
    script = [line.strip() for line in lines if line.startswith("    ")]
    assert len(script) == 4
    # Run the script, as a user would, with the class of the network.
    code = "\n".join(script).replace("from your_project import Generator", "pass")
    monkeypatch.chdir(tmp_path)
    exec(code, {"Generator": Generator})
    command = shlex.split(lines[-1].partition("ganymede ")[2], comments=True)
    assert command[:2] == ["import", "own.onnx"]
    output = run_import(tmp_path / "own.onnx", *command[2:], "--models", tmp_path / "models")
    assert "images 8×8×3" in output


def test_main_prints_the_advice_of_an_error(tmp_path):
    torch.save({f"block{i}.weird": torch.zeros(2, 2) for i in range(9)}, tmp_path / "x.pth")
    command = [sys.executable, "-m", "service.cli.main", "import", str(tmp_path / "x.pth")]
    command[1:3] = ["-c", "from service.cli.main import main; main()"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "torch.onnx.export(network.eval()" in result.stderr
    assert "ganymede import x.onnx" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("g.pth", ["--layout", "nchw"], "--layout has no effect on a checkpoint"),
        ("g.pth", ["--assume", "slope"], "--assume slope: expected NAME=VALUE"),
        ("gen.onnx", ["--network", "G"], "--network has no effect on an ONNX graph"),
        ("gen.onnx", ["--range", "0,1", "--output", "tanh"], "--output has no effect on an ONNX"),
    ],
)
def test_rejects_flags_without_an_effect(graph, tmp_path, file, options, message):
    torch.save(random_tensors(SHAPES), tmp_path / "g.pth")
    assert message in import_error(tmp_path / file, *options, "--models", tmp_path / "models")
    assert not (tmp_path / "models").exists()
