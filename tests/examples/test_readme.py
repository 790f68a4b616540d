"""The table of examples/README.md is complete, and its links exist."""

import re

from tests.support.examples import EXAMPLES


def test_every_example_is_listed():
    text = (EXAMPLES / "README.md").read_text()
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    for target in linked:
        assert (EXAMPLES / target).exists(), target
    listed = {target.partition("/")[0] for target in linked}
    assert listed == {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}


def test_scripts_state_how_they_are_called():
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh"):
            start = path.read_text()[:1500]
            assert f"examples/{path.name}" in start, path.name
            assert path.stat().st_mode & 0o111, path.name
