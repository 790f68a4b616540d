from pathlib import Path

from service.doctor.findings import Status
from service.doctor.storage import check_space, check_storage, check_writable
from service.settings import load_settings


def test_folders_of_the_settings(tmp_path):
    settings = load_settings({"models": tmp_path, "jobs": tmp_path / "new" / "jobs"})
    findings = list(check_storage(settings))
    names = ["models folder", "jobs folder", "cache", "temporary files"]
    assert [finding.check for finding in findings] == names
    assert str(tmp_path / "new" / "jobs") in findings[1].text
    # Nothing was created.
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    for folder in (blocked / "jobs", blocked):
        finding = check_writable("jobs folder", folder, "give --jobs another folder")
        assert finding.status is Status.ERROR
        assert finding.advice == "give --jobs another folder"
    # A file system without files of its own, also for the superuser.
    assert check_writable("cache", Path("/proc"), "x").status is Status.ERROR


def test_space_of_a_folder_that_does_not_exist(tmp_path):
    assert check_space("models folder", tmp_path / "a" / "b").details["free"] > 0
