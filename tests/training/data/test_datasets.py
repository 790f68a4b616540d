from dataclasses import replace

import pytest

from training.data import datasets
from training.data.datasets import KNOWN_DATASETS, class_names, locate_dataset
from training.data.images import DataOptions
from training.data.sources import DataError


@pytest.fixture
def nowhere(monkeypatch):
    """Neither a data folder, nor a package's files, nor the datasets library."""
    monkeypatch.delenv("GANYMEDE_DATA", raising=False)
    for name, known in KNOWN_DATASETS.items():
        monkeypatch.setitem(KNOWN_DATASETS, name, replace(known, system_path=None))
    monkeypatch.setattr(datasets, "datasets_installed", lambda: False)


def test_a_folder_or_zip_of_that_name_in_the_data_folder_is_found(tmp_path, monkeypatch, nowhere):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "cifar10-train.zip").touch()
    (tmp_path / "mine.zip").touch()
    assert locate_dataset("mnist") == tmp_path / "mnist"
    assert locate_dataset("cifar10") == tmp_path / "cifar10-train.zip"
    assert locate_dataset("mine") == tmp_path / "mine.zip"


def test_then_where_a_package_puts_it_and_then_the_hub(tmp_path, monkeypatch, nowhere):
    monkeypatch.setattr(datasets, "datasets_installed", lambda: True)
    assert locate_dataset("fashion-mnist") == "hub:zalando-datasets/fashion_mnist"
    known = replace(KNOWN_DATASETS["fashion-mnist"], system_path=tmp_path)
    monkeypatch.setitem(KNOWN_DATASETS, "fashion-mnist", known)
    assert locate_dataset("fashion-mnist") == tmp_path


def test_a_hub_that_cannot_be_reached_leaves_the_other_ways(monkeypatch, nowhere):
    monkeypatch.setattr(datasets, "datasets_installed", lambda: True)
    with pytest.raises(DataError) as error:
        DataOptions(name="fashion-mnist").open()
    message = str(error.value)
    assert "\n" not in message
    for way in ("cannot be loaded", "data.path=", "apt install dataset-fashion-mnist"):
        assert way in message


def test_what_cannot_be_had_is_one_line_that_says_what_to_do(nowhere):
    with pytest.raises(DataError) as error:
        locate_dataset("fashion-mnist")
    message = str(error.value)
    assert "\n" not in message
    for way in (
        "data.path=",
        "GANYMEDE_DATA",
        "apt install dataset-fashion-mnist",
        "ganymede[hub]",
    ):
        assert way in message


def test_usual_names_stand_for_numbers_and_never_for_folders():
    usual = KNOWN_DATASETS["fashion-mnist"].class_names
    assert class_names("fashion-mnist", [str(i) for i in range(10)]) == usual
    folders = sorted(usual)
    assert class_names("fashion-mnist", folders) == tuple(folders)
    assert class_names(None, ["0", "1"]) == ("0", "1")
    assert class_names("fashion-mnist", ["0", "1"]) == ("0", "1")
