import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def base_installation() -> set[str]:
    """The distributions that `pip install ganymede` installs, from the installed metadata."""
    installed: set[str] = set()
    pending = [Requirement("ganymede")]
    while pending:
        requirement = pending.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = {"", *requirement.extras}
        key = f"{name}{sorted(requirement.extras)}"
        if key in installed:
            continue
        installed.add(key)
        for line in importlib.metadata.requires(name) or []:
            dependency = Requirement(line)
            if dependency.marker is None or any(
                dependency.marker.evaluate({"extra": e}) for e in extras
            ):
                pending.append(dependency)
    return {key.partition("[")[0] for key in installed} - {"ganymede"}


def link_base_installation(folder: Path) -> None:
    """Link the files of the base installation, without extras, into `folder`."""
    for name in base_installation():
        for file in importlib.metadata.files(name) or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            link = folder / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.locate())


def test_base_installation_has_no_torch():
    base = base_installation()
    assert {"bentoml", "fastapi", "numpy", "pillow"} <= base
    assert not {name for name in base if name.startswith(("torch", "onnxscript", "tensorboard"))}
    assert len({"onnxruntime", "onnxruntime-gpu"} & base) == 1


def test_service_imports_without_torch(tmp_path):
    link_base_installation(tmp_path)
    code = """
import importlib.util, json, sys
sys.path[:0] = sys.argv[1:]
import service.app
import service.worker
import service.cli.main
print(json.dumps({
    "torch": importlib.util.find_spec("torch") is not None,
    "training": [name for name in sys.modules if name.partition(".")[0] == "training"],
    "service": service.app.__file__,
}))
"""
    # -I -S: ignore the environment and the working directory of the tests.
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    value = json.loads(process.stdout.splitlines()[-1])
    assert value == {
        "torch": False,
        "training": [],
        "service": str(ROOT / "service" / "app.py"),
    }


def test_service_does_not_import_torch_or_training():
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & {"torch", "training"}, path


def test_command_and_supervisor_import_no_worker_packages():
    code = """
import sys, service.{0}
print([name for name in ("numpy", "onnxruntime", "fastapi") if name in sys.modules])
"""
    for module in ("cli", "app"):
        process = subprocess.run(
            [sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True
        )
        assert process.stdout.splitlines()[-1] == "[]", module
