import math
import os
import subprocess
import sys

import pytest

from service.runtime.onnx.machine import cpu_model, cpu_quota, usable_cpus


@pytest.fixture
def tree(tmp_path):
    """Write files below a made-up root: contents by path."""

    def write(files):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


CASES = {
    "no cgroups at all": ({}, math.inf),
    "v2, its own group": (
        {"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "150000 100000\n"},
        1.5,
    ),
    "v2, no quota": (
        {"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "max 100000\n"},
        math.inf,
    ),
    "v2, the smallest up the tree": (
        {
            "proc/self/cgroup": "0::/pods/pod/container\n",
            "sys/fs/cgroup/pods/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/pods/pod/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/pods/pod/container/cpu.max": "max 100000\n",
        },
        2,
    ),
    "v2 in a container with a namespace": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2 in a container that shows its host's path": (
        {"proc/self/cgroup": "0::/docker/f00\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "v1": (
        {
            "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/kube/pod\n",
            "sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/kube/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/kube/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1 in a container, beside an empty v2": (
        {
            "proc/self/cgroup": "1:cpu:/docker/f00\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        2,
    ),
    "nonsense": (
        {"proc/self/cgroup": "?\n0::/\n", "sys/fs/cgroup/cpu.max": "lots of it\n"},
        math.inf,
    ),
}


@pytest.mark.parametrize(("files", "quota"), CASES.values(), ids=CASES)
def test_the_quota_is_the_smallest_that_holds_for_this_process(tree, files, quota):
    assert cpu_quota(tree(files)) == quota


def test_a_quota_below_the_cpus_of_the_host_is_what_counts(tree):
    half = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert usable_cpus(half) == 1


def test_a_quota_above_the_cpus_gives_no_more_than_there_are(tree):
    much = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000"})
    assert usable_cpus(much) == len(os.sched_getaffinity(0))


def test_the_cpu_has_a_name(tree):
    assert (
        cpu_model(tree({"proc/cpuinfo": "processor: 0\nmodel name\t: Fast 9000\n"})) == "Fast 9000"
    )
    assert cpu_model()


_COLLECTIONS = """
import gc, weakref
from service.runtime.onnx.machine import release_memory, freeze_garbage_collection

class Node:
    pass

there = [[] for _ in range(20_000)]
before = Node()
before.itself = before
freeze_garbage_collection()
looked_at = []
gc.callbacks.append(lambda phase, _: looked_at.append(len(gc.get_objects())))
gc.collect()
assert max(looked_at) < 5_000, looked_at
was_before = weakref.ref(before)
del before
gc.collect()
assert was_before() is not None
release_memory()
assert was_before() is None
assert gc.get_freeze_count() > 20_000
"""


def test_what_was_there_is_looked_at_again_only_when_memory_is_given_back():
    # In a process of its own: what is kept out of collections is the whole process's.
    subprocess.run([sys.executable, "-c", _COLLECTIONS], check=True)


def test_who_keeps_nothing_out_of_collections_goes_on_so_after_giving_memory_back():
    code = "import gc; from service.runtime.onnx.machine import release_memory as give; give(); "
    code += "assert gc.get_freeze_count() == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
