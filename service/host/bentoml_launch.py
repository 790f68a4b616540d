"""Replaces the current process with BentoML's server.

Faults: BentoML needs a writable home folder although serving keeps nothing in it, and takes the
service's settings only through the environment.

Seen in: bentoml 1.4.39.
Shown by: tests/deploy/test_read_only.py.
Can go when: `bentoml serve` runs without a home folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from service.settings import Settings


def exec_server(settings: Settings, address: str, port: int) -> NoReturn:
    """Run `bentoml serve` with `settings` in place of this process."""
    environment = {
        # Without a buffer for log lines, a full disk does not make Python fail at its exit.
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
        "BENTOML_HOME": _writable_home(),
    }
    for name, value in settings.to_environment().items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    code_folder = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Ganymede"]
    options = ["--host", address, "--port", str(port), "--working-dir", code_folder]
    os.execve(sys.executable, [*command, *options], environment)  # noqa: S606 - our interpreter


def _writable_home() -> str:
    """Return BentoML's own choice of a home folder if it is writable, else a temporary folder."""
    home = Path(os.environ.get("BENTOML_HOME") or "~/bentoml")
    try:
        home = home.expanduser()
        home.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # Read-only, or a user without a home.
        pass
    else:
        if os.access(home, os.W_OK | os.X_OK):
            return str(home)
    return str(Path(tempfile.gettempdir()) / f"bentoml-{os.getuid()}")
