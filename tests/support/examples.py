"""Runs the scripts of examples/ as a user does."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(
    name: str, *arguments: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with the commands of this environment, and check that it succeeds."""
    script = str(EXAMPLES / name)
    start = [sys.executable, script] if name.endswith(".py") else [script]
    commands = str(Path(sys.executable).parent)
    process = subprocess.run(
        [*start, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return process
