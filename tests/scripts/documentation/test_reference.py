"""The generated reference is complete."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.documentation import reference
from scripts.documentation.reference.http import openapi_document
from service.cli.main import app
from service.settings import Settings
from training.recipe.loading import load_recipe, shipped_recipes

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def subcommands(*group: str) -> list[str]:
    """The subcommands that `--help` lists."""
    text = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "200"}).output
    return re.findall(r"^ {2}([a-z]+) {2,}", text.partition("Commands")[2], re.MULTILINE)


def test_every_subcommand_has_its_options(pages):
    names = subcommands()
    assert {"serve", "sample", "train", "import", "keys"} <= set(names)
    paths = [(name,) for name in names] + [("keys", name) for name in subcommands("keys")]
    for path in paths:
        section = re.search(
            rf"^## ganymede {' '.join(path)}$(.*?)(?=^## |\Z)",
            pages["command.md"],
            re.MULTILINE | re.DOTALL,
        )
        assert section, path
        text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}).output
        for option in set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE)) - {
            "--help"
        }:
            assert option in section[1], (path, option)


def test_every_route_and_schema_is_listed(pages):
    document = openapi_document()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"\n## {method.upper()} {path}\n" in pages["http.md"]
    for name in document["components"]["schemas"]:
        assert f"\n### {name}\n" in pages["http.md"]
    assert "| `truncation` |" in pages["http.md"]


def test_every_setting_is_listed(pages):
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` |" in pages["settings.md"]
        assert field.description in pages["settings.md"].replace("\\|", "|")


def keys_of(values) -> set[str]:
    if isinstance(values, dict):
        return set(values).union(*map(keys_of, values.values()))
    if isinstance(values, list):
        return set().union(*map(keys_of, values))
    return set()


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_key_of_the_included_recipes_is_explained(pages, name):
    assert f"| `{name}` |" in pages["recipes.md"]
    values = load_recipe(name).model_dump(mode="json", exclude={"search"})
    for key in keys_of(values):
        assert f"| `{key}` |" in pages["recipes.md"], key


def test_every_key_of_the_included_manifests_is_listed(pages):
    for file in ROOT.glob("models/*/*/model.json"):
        values = json.loads(file.read_text())
        # The keys of this object are the roles of the graphs.
        values["graphs"] = list(values["graphs"].values())
        for key in keys_of(values):
            assert f"| `{key}` |" in pages["manifest.md"], (file, key)


def test_comments_and_docstrings_are_descriptions(pages):
    assert "Real images shown to the discriminator." in pages["recipes.md"]
    assert "The radius of the receptive field" in pages["manifest.md"]
    assert "An ONNX file whose inputs and outputs" in pages["manifest.md"]
