import os
import subprocess
import sys

import numpy as np
import pytest

from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import (
    ExecutionPlan,
    GraphError,
    OutOfMemory,
    Provider,
    ProviderUnavailable,
    Session,
    cuda_unavailable_reason,
    gpu_memory_limit,
    in_buckets,
    pick_provider,
    plan_for,
)
from tests.support.failing_models import CLASSES, SIZE, Z, write_graph
from tests.support.marks import skip_without_cuda

without_gpu = pytest.mark.skipif(cuda_unavailable_reason() is None, reason="this machine has CUDA")


@without_gpu
def test_without_gpu_auto_is_cpu_and_cuda_is_refused():
    assert pick_provider("auto") is Provider.CPU
    with pytest.raises(ProviderUnavailable, match=r"driver|GPU|provider|CUDA"):
        pick_provider("cuda")


@pytest.mark.cuda
@skip_without_cuda
def test_with_gpu_auto_is_cuda(repository):
    assert pick_provider("auto") is Provider.CUDA
    graph = repository / "gan-mnist" / "1" / "generator.onnx"
    Session(graph, Provider.CUDA, plan_for(Provider.CUDA))


@pytest.mark.cuda
@skip_without_cuda
@pytest.mark.parametrize("name", ["gan-mnist", "dcgan-fashion"])
def test_cuda_images_do_not_depend_on_the_other_rows_of_a_bucket(repository, name):
    plan = ExecutionPlan(1, 1, 8, (8,))
    model = Model(repository / name / "1", Provider.CUDA, plan)
    together = model.generate(range(8))
    assert np.array_equal(model.generate(range(7, -1, -1))[::-1], together)
    assert np.array_equal(model.generate([3]), together[3:4])
    # The CPU computes the same image up to rounding.
    on_cpu = Model(repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 8))
    difference = np.abs(on_cpu.generate(range(8)).astype(int) - together)
    assert difference.max() <= 2


@without_gpu
def test_provider_detection_prints_nothing(repository):
    graph = repository / "gan-mnist" / "1" / "generator.onnx"
    code = (
        "from pathlib import Path; import sys; from service.runtime.onnx.sessions import *;"
        "p = pick_provider('auto'); Session(Path(sys.argv[1]), p, plan_for(p))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, graph], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_invalid_graph_file_gives_one_line_error(tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(GraphError, match=r"generator\.onnx cannot be loaded") as error:
        Session(path, Provider.CPU, plan_for(Provider.CPU))
    assert "\n" not in str(error.value)


def test_default_workers_equal_usable_cpus():
    assert 1 <= plan_for(Provider.CPU).workers == usable_cpus() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(1, [1]), (2, [2]), (3, [4]), (4, [4]), (5, [4, 1]), (7, [4, 4]), (11, [4, 4, 4])],
)
def test_batches_are_padded_to_buckets(rows, sizes):
    ran = []

    def run(feeds):
        assert set(feeds["c"].tolist()) <= set(
            range(100, 100 + rows)
        )  # Padding rows are valid inputs.
        ran.append(len(feeds["z"]))
        return {"y": feeds["z"] * 2 + feeds["c"][:, None]}

    feeds = {"z": np.arange(rows * 2.0).reshape(rows, 2), "c": np.arange(100, 100 + rows)}
    outputs = in_buckets(run, feeds, (1, 2, 4))
    assert ran == sizes
    assert (outputs["y"] == feeds["z"] * 2 + feeds["c"][:, None]).all()


@pytest.mark.parametrize("buckets", [(1, 2, 4, 8), (8,)])
def test_buckets_do_not_change_the_images(repository, buckets):
    graph = repository / "dcgan-fashion" / "1" / "generator.onnx"
    plain = Session(graph, Provider.CPU, ExecutionPlan(1, 1, 8))
    bucketed = Session(graph, Provider.CPU, ExecutionPlan(1, 1, 8, buckets))
    z = np.random.RandomState(0).randn(19, 100).astype(np.float32)
    expected = plain.run({"z": z})["pixels"]
    for rows in (1, 3, 8, 19):
        assert (bucketed.run({"z": z[:rows]})["pixels"] == expected[:rows]).all()


def test_out_of_memory_is_distinguished_from_other_errors(tmp_path):
    write_graph(tmp_path / "failing.onnx")
    session = Session(tmp_path / "failing.onnx", Provider.CPU, ExecutionPlan(1, 1, 8))

    def run(*classes):
        z = np.ones((len(classes), Z), np.float32)
        index = np.array([CLASSES.index(name) for name in classes])
        return session.run({"z": z, "class_index": index})["pixels"]

    assert (run("fine", "hungry") == run("fine", "fine")).all()
    with pytest.raises(OutOfMemory):
        run("hungry", "hungry")
    with pytest.raises(Exception, match="out of data bounds") as error:
        run("fine", "raises")
    assert not isinstance(error.value, MemoryError)
    assert run("fine").shape == (1, SIZE, SIZE, 1)


def test_processes_share_the_memory_of_the_gpu():
    total = 80 * 2**30
    assert gpu_memory_limit(total, 4) == 18 * 2**30
    assert 4 * gpu_memory_limit(total, 4) < total
