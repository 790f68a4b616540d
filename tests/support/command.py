"""Runs the `ganymede` command."""

import subprocess

from tests.support.servers import ganymede


def run(*arguments, **options) -> subprocess.CompletedProcess:
    """Run `ganymede` with these arguments, and with further options of `subprocess.run`."""
    return subprocess.run(
        ganymede(*arguments), capture_output=True, text=True, check=False, **options
    )


def assert_one_line_error(process: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """Check that the command failed with one error line, which contains each of `words`."""
    assert process.returncode == code
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in line
