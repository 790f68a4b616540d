"""The types of problems that docs/http.md lists."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "http.md"


def documented_problems() -> list[tuple[str, int]]:
    """The types of problems, with their statuses."""
    table = _PAGE.read_text().partition("## Errors")[2]
    rows = [line.split("|") for line in table.splitlines() if re.match(r"\| \d", line)]
    return [(kind, int(row[1])) for row in rows for kind in re.findall(r"`([a-z-]+)`", row[2])]
