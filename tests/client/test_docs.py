"""The examples in the documentation of the client run and print what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from ganymede_client.wire.calls import DESCRIBED

ROOT = Path(__file__).parents[2]


def examples(file: str) -> list[str]:
    """Return the Python blocks of a page that have no comment of their own, such as `not run`."""
    fence = re.compile(r"(?<!-->\n)^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fence.findall((ROOT / file).read_text())


@pytest.mark.parametrize("file", ["docs/client.md", "client/README.md"])
def test_examples_print_the_commented_output(service, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    blocks = examples(file)
    assert blocks
    for block in blocks:
        code = block.replace("http://localhost:3000", service.url)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, file, "exec"), names)
        # The lines of progress have no comment.
        printed = [
            line
            for line in out.getvalue().replace(service.url, "http://localhost:3000").splitlines()
            if not re.match(r"(queued|running|done): |\S+: [\d.,]+ of [\d.,]+ MB", line)
        ]
        assert printed == re.findall(r"print\(.*\)  # (.*)", block)


def test_every_method_is_in_the_table():
    table = (ROOT / "docs/client.md").read_text().partition("## Methods and routes")[2]
    assert set(DESCRIBED) <= set(re.findall(r"`(\w+)`", table))
