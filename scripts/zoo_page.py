#!/usr/bin/env python3
"""Write docs/zoo.md from the manifests of the included models, and measure their speed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from scripts.documentation.featured import FEATURED, animation  # noqa: E402
from training.evaluation.report.zoo import write_zoo  # noqa: E402

if __name__ == "__main__":
    write_zoo(
        ROOT / "models",
        ROOT / "docs" / "zoo.md",
        featured={model: animation(model) for model in FEATURED},
        report=lambda line: sys.stderr.write(line + "\n"),
    )
