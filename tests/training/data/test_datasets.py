from dataclasses import replace

import pytest

from training.data import datasets
from training.data.datasets import KNOWN_DATASETS, class_names, locate_dataset
from training.data.images import DataOptions
from training.data.sources import DataError


@pytest.fixture
def no_datasets(monkeypatch):
    """Without a data folder, system packages and the datasets library."""
    monkeypatch.delenv("GANYMEDE_DATA", raising=False)
    for name, known in KNOWN_DATASETS.items():
        monkeypatch.setitem(KNOWN_DATASETS, name, replace(known, system_path=None))
    monkeypatch.setattr(datasets, "datasets_installed", lambda: False)


def test_finds_folder_or_zip_in_data_folder(tmp_path, monkeypatch, no_datasets):
    monkeypatch.setenv("GANYMEDE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "cifar10-train.zip").touch()
    (tmp_path / "mine.zip").touch()
    assert locate_dataset("mnist") == tmp_path / "mnist"
    assert locate_dataset("cifar10") == tmp_path / "cifar10-train.zip"
    assert locate_dataset("mine") == tmp_path / "mine.zip"


def test_prefers_system_package_to_hub(tmp_path, monkeypatch, no_datasets):
    monkeypatch.setattr(datasets, "datasets_installed", lambda: True)
    assert locate_dataset("fashion-mnist") == "hub:zalando-datasets/fashion_mnist"
    known = replace(KNOWN_DATASETS["fashion-mnist"], system_path=tmp_path)
    monkeypatch.setitem(KNOWN_DATASETS, "fashion-mnist", known)
    assert locate_dataset("fashion-mnist") == tmp_path


def test_unreachable_hub_suggests_alternatives(monkeypatch, no_datasets):
    monkeypatch.setattr(datasets, "datasets_installed", lambda: True)
    with pytest.raises(DataError) as error:
        DataOptions(name="fashion-mnist").open()
    message = str(error.value)
    assert "\n" not in message
    for suggestion in ("cannot be loaded", "data.path=", "apt install dataset-fashion-mnist"):
        assert suggestion in message


def test_missing_dataset_suggests_alternatives(no_datasets):
    with pytest.raises(DataError) as error:
        locate_dataset("fashion-mnist")
    message = str(error.value)
    assert "\n" not in message
    for suggestion in (
        "data.path=",
        "GANYMEDE_DATA",
        "apt install dataset-fashion-mnist",
        "ganymede[hub]",
    ):
        assert suggestion in message


def test_known_class_names_replace_numbers_only():
    known_names = KNOWN_DATASETS["fashion-mnist"].class_names
    assert class_names("fashion-mnist", [str(i) for i in range(10)]) == known_names
    folders = sorted(known_names)
    assert class_names("fashion-mnist", folders) == tuple(folders)
    assert class_names(None, ["0", "1"]) == ("0", "1")
    assert class_names("fashion-mnist", ["0", "1"]) == ("0", "1")
