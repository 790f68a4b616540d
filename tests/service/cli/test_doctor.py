"""`ganymede doctor` as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.command import run
from tests.support.servers import free_port, occupied_port

CHECKS = [
    "python",
    "packages",
    "requirements",
    "cpu",
    "memory",
    "shared memory",
    "open files",
    "provider",
    "gpu",
    "models folder",
    "jobs folder",
    "cache",
    "temporary files",
    "port",
    "models",
    "test image",
]


def doctor(*arguments, **options):
    return run("doctor", "--port", free_port(), "--provider", "cpu", *arguments, **options)


def test_working_installation(drawn_repository):
    process = doctor("--models", drawn_repository)
    assert process.returncode == 0, process.stdout
    checks = [line[8:24].strip() for line in process.stdout.splitlines()[:-1] if line[:8].strip()]
    assert [name for name in checks if name in CHECKS] == CHECKS
    assert "\x1b" not in process.stdout
    # On a busy machine there are lines of progress.
    assert "\x1b" not in process.stderr
    assert "\r" not in process.stderr


def test_json(drawn_repository, tmp_path):
    content = json.loads(doctor("--models", drawn_repository, "--json").stdout)
    assert content["ok"] is True
    assert {finding["check"] for finding in content["findings"]} >= set(CHECKS)
    assert all(
        (finding["status"] == "ok") is (finding["advice"] is None)
        for finding in content["findings"]
    )


def test_troubles_exit_with_1_and_say_what_to_do(tmp_path):
    process = doctor("--models", tmp_path / "nowhere")
    assert process.returncode == 1
    assert "no such folder" in process.stdout
    assert "→ add one with ganymede pull" in process.stdout
    assert process.stdout.splitlines()[-1].startswith("1 error")


def test_used_port(drawn_repository):
    with occupied_port() as port:
        process = run("doctor", "--models", drawn_repository, "--port", port, "--json")
    assert process.returncode == 1
    errors = [each for each in json.loads(process.stdout)["findings"] if each["status"] == "error"]
    assert [each["check"] for each in errors] == ["port"]


def test_invalid_setting_is_a_finding(drawn_repository):
    environment = {**os.environ, "GANYMEDE_MAX_IMAGES": "many"}
    process = doctor("--json", env=environment)
    assert process.returncode == 1
    *_, last = json.loads(process.stdout)["findings"]
    assert (last["check"], last["status"]) == ("settings", "error")
    assert last["text"].startswith("max_images: ")


# Modules that cannot be imported, as if they were not installed.
_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({modules!r}))
sys.argv = ["ganymede", *{arguments!r}]
from service.cli.main import main
main()
"""


def run_without(modules, *arguments):
    code = _WITHOUT.format(modules=modules, arguments=list(map(str, arguments)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("modules", [("torch", "onnx", "training"), ("onnxruntime",)])
def test_works_in_an_incomplete_installation(drawn_repository, modules):
    arguments = ["--models", drawn_repository, "--port", free_port(), "--json"]
    process = run_without(modules, "doctor", *arguments)
    findings = json.loads(process.stdout)["findings"]
    failed = [each for each in findings if each["status"] == "error"]
    if "onnxruntime" in modules:
        assert process.returncode == 1
        assert [each["check"] for each in failed] == ["provider", "models"]
        assert all("onnxruntime" in each["text"] for each in failed)
    else:
        assert (process.returncode, failed) == (0, [])


def test_welcome_names_the_extra_for_training_if_it_is_missing():
    process = run_without(("torch",))
    assert process.returncode == 0
    assert "pip install 'ganymede[train,quality]'" in process.stdout
