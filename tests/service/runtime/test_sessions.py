import os
import subprocess
import sys

import pytest

from service.runtime.sessions import (
    GraphError,
    Provider,
    ProviderUnavailable,
    Session,
    pick_provider,
    plan_for,
    usable_cpus,
    why_no_cuda,
)

without_gpu = pytest.mark.skipif(why_no_cuda() is None, reason="this machine has CUDA")
with_gpu = pytest.mark.skipif(why_no_cuda() is not None, reason=f"no CUDA: {why_no_cuda()}")


@without_gpu
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused_with_the_reason():
    assert pick_provider("auto") is Provider.CPU
    with pytest.raises(ProviderUnavailable, match=r"driver|GPU|provider|CUDA"):
        pick_provider("cuda")


@with_gpu
def test_with_a_gpu_auto_is_cuda_and_a_graph_runs_there(repository):
    assert pick_provider("auto") is Provider.CUDA
    graph = repository / "gan-mnist" / "1" / "generator.onnx"
    Session(graph, Provider.CUDA, plan_for(Provider.CUDA))


@without_gpu
def test_nothing_is_printed_while_looking_for_cuda(repository):
    graph = repository / "gan-mnist" / "1" / "generator.onnx"
    code = (
        "from pathlib import Path; import sys; from service.runtime.sessions import *;"
        "p = pick_provider('auto'); Session(Path(sys.argv[1]), p, plan_for(p))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, graph], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_a_file_that_is_no_graph_is_one_line(tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"generator\.onnx cannot be loaded") as error:
        Session(path, Provider.CPU, plan_for(Provider.CPU))
    assert "\n" not in str(error.value)


def test_no_more_workers_than_cpus_that_may_be_used():
    assert 1 <= plan_for(Provider.CPU).workers == usable_cpus() <= (os.cpu_count() or 1)
