"""Names of files and folders."""

import os

import pytest

from service.runtime.files import open_regular, shortened


def test_opens_only_regular_files(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=path.name):
            open_regular(path)


@pytest.mark.parametrize("unit", ["a", "é", "日"])
def test_long_names_are_cut_and_stay_different(tmp_path, unit):
    names = [shortened(unit * 1000 + end) for end in ("1", "2")]
    assert names[0] != names[1]
    for name in names:
        (tmp_path / f"{name}.jpeg").touch()
    assert shortened(unit * 60) == unit * 60
