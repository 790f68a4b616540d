import resource

from service.doctor.findings import Status
from service.doctor.machine import (
    check_cpus,
    check_machine,
    check_memory,
    check_open_files,
    check_shared_memory,
)

MEMINFO = "MemTotal: 8000000 kB\nMemFree: 1000 kB\nMemAvailable: 4000000 kB\n"


def container(folder, **files):
    """A root folder with the files of a container's /proc and cgroup (version 2)."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text("0::/\n")
    (folder / "proc/meminfo").write_text(MEMINFO)
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    for name, content in files.items():
        (folder / "sys/fs/cgroup" / name.replace("__", ".")).write_text(content)
    return folder


def test_this_machine_has_all_findings():
    checks = [finding.check for finding in check_machine()]
    assert checks == ["cpu", "memory", "shared memory", "open files"]


def test_cpu_quota_is_shown(tmp_path):
    finding = check_cpus(container(tmp_path, cpu__max="100000 100000\n"))
    assert finding.details["usable"] == 1
    assert finding.details["quota"] == 1


def test_less_than_one_cpu_is_a_warning(tmp_path):
    finding = check_cpus(container(tmp_path, cpu__max="50000 100000\n"))
    assert finding.status is Status.WARNING
    assert "quota of the cgroup is 0.5" in finding.text
    assert "at least one CPU" in finding.advice


def test_memory_without_a_limit(tmp_path):
    finding = check_memory(container(tmp_path, memory__max="max\n"))
    assert finding.status is Status.OK
    assert finding.details == {"available": 4_096_000_000, "limit": None}


def test_little_memory_within_the_limit_is_a_warning(tmp_path):
    limits = {"memory__max": "600000000\n", "memory__current": "400000000\n"}
    root = container(tmp_path, **limits, memory__stat="anon 1\ninactive_file 100000000\n")
    finding = check_memory(root)
    assert finding.status is Status.WARNING
    assert finding.details == {"available": 300_000_000, "limit": 600_000_000}
    assert "300.0 MB available of 8.2 GB; the limit of the cgroup is 600.0 MB" in finding.text
    assert "--memory-budget" in finding.advice


def test_memory_of_another_system_is_unknown(tmp_path):
    assert check_memory(tmp_path).status is Status.OK


def test_missing_shared_memory_is_a_warning(tmp_path):
    assert check_shared_memory(tmp_path / "shm").status is Status.WARNING
    assert check_shared_memory(tmp_path).check == "shared memory"


def test_few_open_files_are_a_warning():
    finding = check_open_files(256)
    assert finding.status is Status.WARNING
    assert "ulimit -n" in finding.advice
    assert check_open_files(65_536).status is Status.OK
    assert check_open_files(resource.RLIM_INFINITY).details == {"limit": None}
