"""The Dockerfile, parsed far enough for tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def dockerfile_stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage as (name, arguments), with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, joined.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((instruction, rest))
    return stages
