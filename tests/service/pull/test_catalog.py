"""The catalog of public models, and its table in the documentation."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.pull.catalog import (
    CatalogModel,
    PublishedFile,
    UnknownModel,
    find_model,
    read_catalog,
)
from service.pull.checksums import Checksum
from service.pull.locations import Location
from service.runtime.formatting import format_size
from training.cli.import_ import import_

DOCUMENT = Path(__file__).parents[3] / "docs" / "pull.md"
MODELS = list(read_catalog().values())


def row(model: CatalogModel) -> str:
    """The row of a model in the table of docs/pull.md."""
    size = format_size(model.size) if model.size else ""
    license_ = f"[{model.license.name}]({model.license.url})" + (
        ", with conditions" if model.license.conditions else ""
    )
    return (
        f"| `{model.name}` | [{model.title}]({model.page}) | {model.image} | {size} | "
        f"{model.check} | {license_} |"
    )


def test_documentation_lists_the_catalog():
    lines = DOCUMENT.read_text().splitlines()
    listed = [line for line in lines if line.startswith("| `") and line.count("|") == 7]
    assert listed == [row(model) for model in MODELS]


def test_documentation_states_the_conditions():
    text = " ".join(DOCUMENT.read_text().split())
    for license_ in {model.license for model in MODELS}:
        assert license_.conditions in text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_entry_is_complete(model):
    assert model.page.startswith("https://")
    assert model.title
    assert model.preview
    for file in model.files:
        # A file that anybody on the way could replace needs a checksum, or asks.
        assert file.address.startswith(("https://", "hf://", "pypi:")) or model.check == "none"
        if file.checksum:
            assert file.stated_by
            assert (
                Checksum.parse(file.checksum).is_strong
                or "@" in file.address
                or ("25d7b017267208dfaf34026aa3425e518372aa2f" in file.address)
            )


def test_no_two_entries_have_the_same_file():
    addresses = [file.address for model in MODELS for file in model.files]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize(
    "model", [model for model in MODELS if model.import_options], ids=lambda model: model.name
)
def test_import_options_exist(model):
    import typer

    application = typer.Typer()
    application.command()(import_)
    command = typer.main.get_command(application)
    context = command.make_context("import", ["file", *model.import_options])
    assert context.params["file"] == Path("file")


def test_unknown_name_suggests_others():
    with pytest.raises(UnknownModel, match=r"did you mean .*realesrgan-x4"):
        find_model("realesrgan-x8")
    with pytest.raises(UnknownModel, match="ganymede pull lists"):
        find_model("qqqq")


def test_checksum_needs_its_source():
    with pytest.raises(ValidationError, match="go together"):
        PublishedFile(address="https://a.org/g.pth", checksum="md5:" + "0" * 32)


def test_check_is_the_weakest_checksum():
    def entry(*checksums):
        model = MODELS[0].model_dump()
        files = [
            {"address": f"https://a.org/{i}.pth", "checksum": each, "stated_by": each and "a page"}
            for i, each in enumerate(checksums)
        ]
        return CatalogModel(**{**model, "files": files}).check

    strong, weak = "sha256:" + "0" * 64, "md5:" + "0" * 32
    assert [entry(strong), entry(strong, weak), entry(strong, None)] == ["sha256", "md5", "none"]


def test_addresses_can_be_parsed():
    for model in MODELS:
        for file in model.files:
            assert Location.parse(file.address).filename
