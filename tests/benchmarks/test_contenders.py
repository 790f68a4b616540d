from pathlib import Path

from benchmarks.contenders import contenders, with_processes


def test_number_of_processes_is_a_flag_and_there_is_no_access_log():
    command = with_processes("4", "--provider", "cuda").command(Path("models/m/1"), 4300)
    assert command[command.index("--processes") + 1] == "4"
    # The last one of a repeated flag applies.
    assert command[-2:] == ["--provider", "cuda"]
    assert "--no-log-requests" in command


def test_each_number_of_processes_replaces_the_default():
    labels = [each.label for each in contenders(["ganymede"], processes=["1", "2"])]
    assert labels == ["ganymede ×1", "ganymede ×2"]
    assert [each.label for each in contenders(["ganymede"])] == ["ganymede"]


def test_checkouts_from_before_get_no_new_flags():
    before = contenders(["ganymede"], processes=["2"], before=[Path("old")])[1]
    assert before.label == "before: old"
    assert "--processes" not in before.command(Path("models/m/1"), 4300)
