from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.inspection.contact_sheet import contact_sheet, sheet_file
from training.data.inspection.scan import scan
from training.data.sources import DataError, open_splits

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_shows_each_class_in_a_row(tmp_path):
    for name, color, count in [("a", RED, 3), ("b", BLUE, 30)]:
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (20, 40), color).save(tmp_path / name / f"{i}.png")
    sources = open_splits(tmp_path)
    sheet = np.asarray(contact_sheet(scan(sources).images, sources, ["a", "b"]))
    top, bottom = np.split(sheet, 2)
    # Enlarged twice, to 40×80 pixels; a row has twelve images.
    assert (top == RED).all(-1).sum() == 3 * 40 * 80
    assert (bottom == BLUE).all(-1).sum() == 12 * 40 * 80
    assert not (bottom == RED).all(-1).any()


def test_default_file_is_outside_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("GANYMEDE_CACHE", str(tmp_path / "cache"))
    first, second = (sheet_file(None, tmp_path / name / "photos") for name in "ab")
    assert first != second
    assert first.parent == tmp_path / "cache" / "contact-sheets"


def test_refuses_to_write_into_the_data(tmp_path):
    with pytest.raises(DataError, match="would be part of the data"):
        sheet_file(tmp_path / "sheet.png", tmp_path)
    assert sheet_file(Path("sheet.png"), tmp_path) == Path("sheet.png")
