import argparse
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Budget, Outcome, pip_commands, run_limited, run_stage, table
from benchmarks.gpu_stages import STAGES, CheckFailed, Context
from benchmarks.gpu_stages import run_stage as run_in_process


def test_unused_time_is_left_to_later_stages():
    budget = Budget(100, {"a": 1, "b": 1, "c": 2})
    assert budget.limit_s("a") == pytest.approx(25, abs=1)
    # "a" took no time: 100 seconds are left for "b" and "c".
    assert budget.limit_s("b") == pytest.approx(100 / 3, abs=1)
    assert budget.limit_s("c") == pytest.approx(100, abs=1)


def test_every_stage_has_a_share():
    assert list(gpu_check.SHARES) == ["install", *STAGES]


def test_command_is_stopped_at_its_limit(tmp_path):
    started = time.monotonic()
    command = [sys.executable, "-c", "import time; print('began', flush=True); time.sleep(600)"]
    status, _ = run_limited(command, 3, tmp_path / "log")
    assert status is None
    assert (tmp_path / "log").read_text() == "began\n"
    assert time.monotonic() - started < 120


def test_wheels_are_installed_without_an_index():
    for command in pip_commands(Path("python"), Path("wheels")):
        assert command[command.index("--find-links") + 1] == "wheels"
        assert "--no-index" in command
    assert not any("--no-index" in command for command in pip_commands(Path("python"), None))


def test_both_onnxruntimes_are_never_requested():
    requested = [word for command in pip_commands(Path("python"), None) for word in command]
    assert not any("onnxruntime" in word for word in requested)


def test_stage_writes_its_rows_for_the_check(tmp_path):
    outcome = run_stage("machine", Path(sys.executable), 120, tmp_path, dry_run=True)
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert outcome.rows[0]["cpus"] >= 1
    assert not list(tmp_path.glob("*.part"))


def test_stage_that_is_stopped_is_recorded(tmp_path):
    outcome = run_stage("graphs", Path(sys.executable), 0.1, tmp_path, dry_run=True)
    assert outcome.status == "stopped"
    assert outcome.rows == []


def test_failing_stage_keeps_its_rows(tmp_path, monkeypatch):
    def stage(context):
        yield {"measured": 1}
        raise CheckFailed("the second does not hold")

    monkeypatch.setitem(STAGES, "bytes", stage)
    reason = run_in_process("bytes", Context(tmp_path, time.monotonic() + 10, dry_run=True))
    assert reason == "the second does not hold"
    written = json.loads((tmp_path / "bytes.json").read_text())
    assert written == {"rows": [{"measured": 1}], "reason": reason}


def test_later_stages_run_after_a_failed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "SHARES", {"install": 1, "unknown": 1, "machine": 60})
    monkeypatch.setattr(gpu_check, "STAGES", {"unknown": None, "machine": None})
    options = argparse.Namespace(folder=tmp_path, dry_run=True, here=False, wheels=None, minutes=10)
    assert gpu_check.check(options) is False
    result = json.loads((tmp_path / "result.json").read_text())
    assert [stage["status"] for stage in result["stages"]] == ["ok", "failed", "ok"]
    assert "invalid choice" in result["stages"][1]["reason"]
    assert (result["complete"], result["passed"]) == (True, False)
    assert "| unknown | failed |" in (tmp_path / "result.md").read_text()


def test_table_has_all_columns_and_no_broken_cells():
    rows = [{"a": 1, "spread": {"median": 2.0, "lowest": 1.0, "highest": 3.0}}, {"b": "x|y"}]
    lines = table([Outcome("s", "failed", 1.0, 2.0, "two\nlines", rows)]).splitlines()
    assert lines[2] == "| s | failed | 1 | 2 | two lines |"
    assert lines[-2:] == ["| 1 | 2 (1 to 3) |  |", "|  |  | x\\|y |"]


@pytest.mark.parametrize("arguments", [["--wheels", "nowhere"], ["--minutes", "0"]])
def test_rejects_bad_arguments(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check", *arguments])
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main()
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err.splitlines()[-1]
