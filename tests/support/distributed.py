"""Trains in one or several processes through the command line."""

import subprocess
import sys
from pathlib import Path

from tests.support.servers import free_port
from training.checkpoints import Checkpoint

TORCHRUN = Path(sys.executable).parent / "torchrun"


def train_command(
    digits: Path, out: Path, recipe: str, processes: int, *overrides: str
) -> list[str]:
    """Return a command that trains 3840 images in float32 with `processes` processes."""
    arguments = [
        "train",
        recipe,
        f"data.path={digits}",
        "train.images=3840",
        "train.log_images=640",
        "device.precision=float32",
        *overrides,
        "--out",
        str(out),
    ]
    ganymede = str(Path(sys.executable).parent / "ganymede")
    launcher = [
        *[str(TORCHRUN), "--nproc-per-node", str(processes), "--master-port", str(free_port())],
        "--no-python",
    ]
    return [*(launcher if processes > 1 else []), ganymede, *arguments]


def train_processes(
    digits: Path, out: Path, recipe: str, processes: int, *overrides: str
) -> Checkpoint:
    """Train to the end and return the last checkpoint."""
    command = train_command(digits, out, recipe, processes, *overrides)
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return Checkpoint.load(out / "checkpoint.pt")
