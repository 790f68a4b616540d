import json
import re
from importlib.metadata import version

import pytest

from tests.support.command import assert_one_line_error, run
from tests.support.tiny_recipes import TINY


@pytest.mark.parametrize(
    "subcommand", ["serve", "models", "doctor", "train", "export", "evaluate", "compare"]
)
def test_help_has_an_example(subcommand):
    process = run(subcommand, "--help")
    assert process.returncode == 0
    assert f"Example: ganymede {subcommand}" in " ".join(process.stdout.split())


def test_durations_are_shown_as_such():
    assert "--jobs-keep DURATION" in run("serve", "--help").stdout


def test_lists_subcommands():
    listed = run("--help").stdout
    for subcommand in ("serve", "models", "doctor", "train", "export", "evaluate", "compare"):
        assert f"  {subcommand} " in listed


def test_version():
    process = run("--version")
    assert process.returncode == 0
    assert process.stdout == f"ganymede {version('ganymede')}\n"
    assert re.fullmatch(r"ganymede \d+\.\d+\.\d+\n", process.stdout)


def test_models_lists_and_verifies(models):
    process = run("models", "--models", models, "--json")
    assert process.returncode == 0
    rows = json.loads(process.stdout)
    listed = [(row["name"], row["version"], row["state"]) for row in rows]
    assert listed == [(name, "1", "ready") for name in sorted(TINY)]
    (models / "gan-mnist" / "1" / "generator.onnx").write_bytes(b"x")
    process = run("models", "--models", models, "--json")
    assert process.returncode == 1
    assert [row["name"] for row in json.loads(process.stdout) if row["state"] == "failed"] == [
        "gan-mnist"
    ]
    assert "sha256" in run("models", "--models", models).stdout.replace("\n", "")


@pytest.mark.parametrize("subcommand", ["serve", "models"])
def test_missing_models_folder_gives_one_line_error(tmp_path, subcommand):
    process = run(subcommand, "--models", tmp_path / "nope")
    assert_one_line_error(process, 2, "--models", "no such folder")


def test_unknown_provider_gives_one_line_error(models):
    process = run("serve", "--models", models, "--provider", "tpu")
    assert_one_line_error(process, 2, "provider", "'cuda'")


def test_used_port_gives_one_line_error(models, server):
    port = server.url.rpartition(":")[2]
    process = run("serve", "--models", models, "--port", port, timeout=60)
    assert_one_line_error(process, 2, f"port {port}", "in use")


@pytest.mark.slow
def test_training_commands_give_one_line_errors(tmp_path):
    process = run("train", "dcgan-fashin", cwd=tmp_path)
    assert_one_line_error(process, 2, "did you mean 'dcgan-fashion'")
    process = run("train", "gan-mnist", "data.path=nowhere", cwd=tmp_path)
    assert_one_line_error(process, 2, "no such file or folder: nowhere")
    process = run("export", "nowhere", cwd=tmp_path)
    assert_one_line_error(process, 2, "is not a run folder")
