"""`ganymede` without a command."""

import json

from service.cli.welcome import Repository, find_repository, welcome
from tests.support.command import run

COMMANDS = ["serve", "sample", "import", "data", "train", "export", "doctor"]


def test_command_alone_shows_the_next_steps(drawn_repository, monkeypatch):
    monkeypatch.setenv("GANYMEDE_MODELS", str(drawn_repository))
    process = run()
    assert (process.returncode, process.stderr) == (0, "")
    assert f"serve the 5 models in {drawn_repository}" in process.stdout
    assert "ganymede sample cut --count 10000" in process.stdout
    for command in COMMANDS:
        assert f"ganymede {command}" in process.stdout
    # One screen.
    assert len(process.stdout.splitlines()) <= 24


def test_without_models_and_training(tmp_path):
    text = welcome(Repository(tmp_path), COMMANDS, training=False)
    assert f"serve the models in {tmp_path} (there are none yet)" in text
    assert text.count("(first: pip install 'ganymede[train,quality]')") == 2
    assert "ganymede sample MODEL" in text


def test_commands_that_do_not_exist_are_not_shown(tmp_path):
    text = welcome(Repository(tmp_path), ["serve", "sample", "doctor"], training=True)
    assert "ganymede train" not in text
    assert "pip install" not in text


def test_unreadable_manifests_are_counted_only(tmp_path, monkeypatch):
    for name, content in {
        "a": "not json",
        "b": "[]",
        "c": json.dumps({"task": "generate"}),
    }.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.json").write_text(content)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / ".hidden" / "1" / "model.json").write_text("{}")
    monkeypatch.setenv("GANYMEDE_MODELS", str(tmp_path))
    repository = find_repository()
    assert repository.names == ("a", "b", "c")
    assert repository.generators == ("c",)


def test_models_at_an_address(monkeypatch):
    monkeypatch.setenv("GANYMEDE_MODELS", "s3://bucket/models")
    text = welcome(find_repository(), COMMANDS, training=True)
    assert "serve the models of s3://bucket/models, at http://127.0.0.1:3000/" in text


def test_invalid_settings_are_named(monkeypatch):
    monkeypatch.setenv("GANYMEDE_MAX_IMAGES", "many")
    text = welcome(find_repository(), COMMANDS, training=True)
    assert "The settings are invalid: max_images: " in text
