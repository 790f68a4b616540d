"""ExifTool, an independent reader of metadata."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def source_types(folder: Path) -> dict[str, str]:
    """Return the digital source type of all files in a folder as ExifTool reads it, by name.

    Fails if ExifTool finds a file invalid.
    """
    if (exiftool := shutil.which("exiftool")) is None:
        pytest.skip("exiftool is missing: apt install libimage-exiftool-perl")
    tags = ["-DigitalSourceType", "-Warning", "-Error"]
    # Files of other kinds have no tags: exit code 1.
    process = subprocess.run(
        [exiftool, "-json", "-r", "-s", *tags, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for each in json.loads(process.stdout):
        name = str(Path(each["SourceFile"]).relative_to(folder))
        assert "Warning" not in each, each
        assert each.get("Error") in (None, "Unknown file type"), each
        found[name] = each.get("DigitalSourceType")
    return found


def source_types_of(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Write files into an empty folder, and return what `source_types` finds."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return source_types(folder)
