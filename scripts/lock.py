#!/usr/bin/env python3
"""Pin the newest versions that satisfy pyproject.toml.

constraints.txt      every package that a make target can install
constraints-gpu.txt  the CUDA libraries, in a separate file because a PyTorch built for CUDA
                     requires other versions than ONNX Runtime
requirements.txt     all dependencies of serving, gRPC included, for containers and Bentos
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADER = "# Created by `make lock`.\n"
# Packages that do not exist on every platform.
GPU_BUILD = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"
WIDESPREAD = "platform_machine in 'x86_64 AMD64 aarch64 arm64'"
MARKERS = {
    "fpng": WIDESPREAD,
    "isal": WIDESPREAD,
    "lazy-loader": WIDESPREAD,
    "onnxruntime-gpu": GPU_BUILD,
    "onnxruntime": ELSEWHERE,
    "uvloop": "sys_platform != 'win32'",
}
CPU_BUILD = {"onnxruntime": "1.32.0"}


def resolve(*requirements: str) -> dict[str, str]:
    """Return the versions that pip would install, by package name."""
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--report", "-", *requirements]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    packages = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    # The part after a + is a local build, such as PyTorch for the CPU, and must not be pinned.
    versions = {m["name"].lower(): m["version"].partition("+")[0] for m in packages}
    versions.pop("ganymede", None)
    return versions


def is_cuda(name: str) -> bool:
    """Whether a package contains CUDA libraries."""
    return name == "triton" or (name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py")


def write(name: str, versions: dict[str, str], markers: dict[str, str] | None = None) -> None:
    """Write a file of pinned versions."""
    lines = []
    for package, version in sorted(versions.items()):
        marker = (markers or {}).get(package)
        lines.append(f"{package}=={version}" + (f"; {marker}" if marker else "") + "\n")
    (ROOT / name).write_text(HEADER + "".join(lines))


def main() -> None:
    """Resolve all versions and write the three files."""
    extras = ".[train,quality,captions,hub,ray,dev]"
    everything = resolve(extras, "torch==2.13.0", "hatchling", "editables")
    everything = CPU_BUILD | {name: v for name, v in everything.items() if not is_cuda(name)}
    serving = CPU_BUILD | {name: everything[name] for name in resolve(".[grpc]")}
    cuda = {name: v for name, v in resolve(".[gpu]").items() if is_cuda(name)}
    write("constraints.txt", everything)
    write("constraints-gpu.txt", cuda)
    write("requirements.txt", serving, MARKERS)


if __name__ == "__main__":
    main()
