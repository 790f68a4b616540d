"""The version of the running code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from service import __version__


def code_revision() -> str:
    """Return the commit of the checkout that contains this code, or Ganymede's version if none.

    A ``+`` after the commit marks uncommitted changes.
    """
    root = Path(__file__).parent.parent
    try:
        if not (root / ".git").exists():
            raise FileNotFoundError(root / ".git")
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "service", "training")
        return commit + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return __version__


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return completed.stdout.strip()
