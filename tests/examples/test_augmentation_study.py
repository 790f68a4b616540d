import re

import pytest
from PIL import Image

from tests.support.examples import run_example
from tests.support.images import drawn_digits
from training.data.datasets import KNOWN_DATASETS


def write_classes(folder, count):
    """Write drawn digits, 28 pixels a side, in the class folders of Fashion-MNIST."""
    names = KNOWN_DATASETS["fashion-mnist"].class_names
    for i, (pixels, label) in enumerate(zip(*drawn_digits(count), strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / names[label] / f"{i}.png")
    return folder


@pytest.mark.slow
def test_prints_the_accuracy_by_number_of_synthetic_images(tmp_path, repository):
    data, test = write_classes(tmp_path / "data", 100), write_classes(tmp_path / "test", 50)
    process = run_example(
        "augmentation_study.py",
        *(data, test, "--model", "cgan-fashion"),
        *("--per-class", "5", "--repeats", "2", "--images", "3000"),
        cwd=tmp_path,
        GANYMEDE_MODELS=str(repository),
    )
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", process.stdout, re.MULTILINE)
    assert [int(count) for count, _, _ in rows] == [0, 5]
    # The digits differ by their offset only, so a classifier of the real ones works.
    assert float(rows[0][1]) > 50
