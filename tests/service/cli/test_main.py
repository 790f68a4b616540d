import json
import re
from importlib.metadata import version

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from service.cli.main import app
from tests.support.command import assert_one_line_error, run
from tests.support.tiny_recipes import TINY


def test_help_of_every_command_has_an_example():
    group = get_command(app)
    context = group.make_context("ganymede", ["--version"], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        names = [[name, each] for each in getattr(command, "commands", {})] or [[name]]
        for words in names:
            shown = CliRunner().invoke(app, [*words, "--help"])
            assert shown.exit_code == 0, words
            assert f"Example: ganymede {' '.join(words)}" in " ".join(shown.output.split()), words


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
