import math
import os
import subprocess
import sys

import pytest

from service.runtime.onnx.machine import cpu_model, cpu_quota, usable_cpus


@pytest.fixture
def tree(tmp_path):
    """Write files, given as content by path, below a temporary root."""

    def write(files):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


CASES = {
    "no cgroups at all": ({}, math.inf),
    "v2, own group": (
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
    "v2 in a container with the path of the host": (
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
    "v1 in a container with an empty v2": (
        {
            "proc/self/cgroup": "1:cpu:/docker/f00\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
        },
        2,
    ),
    "invalid": (
        {"proc/self/cgroup": "?\n0::/\n", "sys/fs/cgroup/cpu.max": "lots of it\n"},
        math.inf,
    ),
}


@pytest.mark.parametrize(("files", "quota"), CASES.values(), ids=CASES)
def test_smallest_quota_applies(tree, files, quota):
    assert cpu_quota(tree(files)) == quota


def test_quota_below_the_host_cpus_applies(tree):
    half = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert usable_cpus(half) == 1


def test_quota_above_the_host_cpus_has_no_effect(tree):
    much = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000"})
    assert usable_cpus(much) == len(os.sched_getaffinity(0))


def test_reads_cpu_model(tree):
    assert (
        cpu_model(tree({"proc/cpuinfo": "processor: 0\nmodel name\t: Fast 9000\n"})) == "Fast 9000"
    )
    assert cpu_model()


_COLLECTIONS = """
import gc, weakref
from service.runtime.onnx.machine import release_memory, freeze_garbage_collection

class Node:
    pass

objects = [[] for _ in range(20_000)]
node = Node()
node.itself = node
freeze_garbage_collection()
sizes = []
gc.callbacks.append(lambda phase, _: sizes.append(len(gc.get_objects())))
gc.collect()
assert max(sizes) < 5_000, sizes
reference = weakref.ref(node)
del node
gc.collect()
assert reference() is not None
release_memory()
assert reference() is None
assert gc.get_freeze_count() > 20_000
"""


def test_frozen_objects_are_collected_only_by_release_memory():
    # In a subprocess, because freezing affects the whole process.
    subprocess.run([sys.executable, "-c", _COLLECTIONS], check=True)


def test_release_memory_does_not_freeze_by_itself():
    code = "import gc; from service.runtime.onnx.machine import release_memory; release_memory(); "
    code += "assert gc.get_freeze_count() == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
