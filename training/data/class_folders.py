"""Folder names for classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.data.sources.layout import is_split_name


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Return a folder name for each class: valid on every system, and different from the others.

    A class that has the name of a split gets another folder, which is not read as a split.
    """
    folders: list[str] = []
    taken: set[str] = set()
    for class_name in class_names:
        name = re.sub(r"[^\w.-]+", "-", class_name).strip(".-")[:100] or "class"
        if is_split_name(name):
            name = f"class-{name}"
        folder, number = name, 2
        # Some file systems ignore case.
        while folder.casefold() in taken:
            folder, number = f"{name}-{number}", number + 1
        taken.add(folder.casefold())
        folders.append(folder)
    return folders
