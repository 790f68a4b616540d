"""ONNX Runtime sessions and execution providers.

A requested provider that is unavailable raises an error with the reason. It is never silently
replaced by a slower one.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.runtime.errors import UserError
from service.runtime.onnx.machine import ProviderOption, sharing_processes, usable_cpus

Array = NDArray[Any]
# How a plan was found: measured now, cached from an earlier measurement, set by the operator, or
# the default.
PlanSource = Literal["measured", "cached", "set", "default"]

# Batch sizes that are used on a GPU.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)

_LOG_ERRORS_ONLY = 3
# The part of the GPU's memory that the arenas of several processes may take.
_ARENA_SHARE = 0.9
# Out-of-memory messages of ONNX Runtime's arenas, the C++ library, CUDA and its libraries.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")


class Provider(StrEnum):
    """An execution provider."""

    CUDA = "cuda"
    CPU = "cpu"


class ProviderUnavailable(UserError):
    """The requested provider is unavailable; the message gives the reason."""


class GraphError(UserError):
    """A graph cannot be loaded, or does not match its manifest."""


class OutOfMemory(MemoryError):
    """A run needed more memory than is available; fewer rows may fit."""


@dataclass(frozen=True)
class ExecutionPlan:
    """How many batches run in parallel, with how many threads and rows.

    `workers` batches run in parallel, each with `threads` threads and at most `max_rows` rows. A
    batch that is the only one running uses `alone` threads if that is more than 0. With
    `buckets` (ascending batch sizes), a batch is padded to the smallest bucket that holds it, so
    that the provider only sees these sizes.
    """

    workers: int
    threads: int
    max_rows: int
    buckets: tuple[int, ...] = ()
    alone: int = 0
    source: PlanSource = field(default="default", compare=False)


def pick_provider(option: ProviderOption) -> Provider:
    """Return the provider to use. Raises ProviderUnavailable if CUDA is required and
    unavailable.
    """
    if option == "cpu":
        return Provider.CPU
    reason = cuda_unavailable_reason()
    if reason is None:
        return Provider.CUDA
    if option == "cuda":
        raise ProviderUnavailable(reason)
    return Provider.CPU


def cuda_unavailable_reason() -> str | None:
    """Return why CUDA cannot be used, or None if it can.

    Checks the driver and the libraries first: ONNX Runtime would print an error for every session
    on a machine without a GPU.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int(0)
    if (
        driver.cuInit(0) != 0
        or driver.cuDeviceGetCount(ctypes.byref(count)) != 0
        or not count.value
    ):
        return "the NVIDIA driver finds no GPU"
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    libraries = Path(ort.__file__).parent / "capi"
    try:
        shared = libraries / "libonnxruntime_providers_shared.so"
        ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return (
            f"a CUDA library is missing ({error}); CUDA 13 and cuDNN 9 are needed: "
            "pip install 'ganymede[gpu]'"
        )
    return None


def gpu_memory_limit(total: int, processes: int) -> int:
    """Return the bytes of GPU memory for the arena of each graph of one of `processes` processes.

    They share `total` bytes, which also hold libraries and kernels outside the arenas.
    """
    return int(total * _ARENA_SHARE) // processes


def _cuda_options() -> dict[str, str]:
    options = {"cudnn_conv_algo_search": "HEURISTIC"}
    # A single process may use all of the memory.
    if (processes := sharing_processes()) > 1:
        options["gpu_mem_limit"] = str(gpu_memory_limit(_gpu_memory(), processes))
    return options


@cache
def _gpu_memory() -> int:
    """Return the bytes of memory of the first GPU. Raises ProviderUnavailable."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    if (
        driver.cuInit(0) != 0
        or driver.cuDeviceGet(ctypes.byref(device), 0) != 0
        or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device) != 0
    ):
        raise ProviderUnavailable("the NVIDIA driver does not state the memory of the GPU")
    return total.value


def plan_for(provider: Provider) -> ExecutionPlan:
    """Return the default plan of a provider, without measuring.

    On a CPU, parallel single-threaded runs are faster than threads inside one run, and larger
    batches only add latency. A GPU is kept busy by one large batch at a time, and every new batch
    size costs a kernel search.
    """
    if provider is Provider.CUDA:
        return ExecutionPlan(workers=1, threads=1, max_rows=64, buckets=BUCKETS)
    return ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=8)


def in_buckets(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    feeds: Mapping[str, Array],
    buckets: Sequence[int],
) -> dict[str, Array]:
    """Run `feeds` in batches whose sizes are in `buckets`, and return the rows of `feeds`.

    A batch is padded to the next bucket with copies of its first row. A batch larger than the last
    bucket is split. With a single bucket every row runs in a batch of the same size. This matters
    on a GPU, where the choice of kernels, and thereby the last bits, can depend on the batch size.
    """
    rows = len(next(iter(feeds.values())))
    parts = []
    for start in range(0, rows, buckets[-1]):
        part = {name: array[start : start + buckets[-1]] for name, array in feeds.items()}
        count = min(rows - start, buckets[-1])
        padding = next(size for size in buckets if size >= count) - count
        if padding:
            part = {
                name: np.concatenate([array, np.repeat(array[:1], padding, axis=0)])
                for name, array in part.items()
            }
        parts.append({name: array[:count] for name, array in run(part).items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Session:
    """A loaded graph. Several threads may run it concurrently."""

    def __init__(self, path: Path, provider: Provider, plan: ExecutionPlan) -> None:
        """Load the graph. Raises GraphError, or ProviderUnavailable."""
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        # Spinning idle threads would take CPU time from other workers and from encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if provider is Provider.CUDA:
            providers.insert(0, ("CUDAExecutionProvider", _cuda_options()))
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise GraphError(f"{path.name} cannot be loaded: {reason}") from error
        actual = self._session.get_providers()[0]
        if provider is Provider.CUDA and actual != "CUDAExecutionProvider":
            raise ProviderUnavailable(f"{path.name} runs on {actual} instead of CUDA")
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self._buckets = plan.buckets

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch: arrays ``[N, ...]`` by input name.

        Raises OutOfMemory, or any error of ONNX Runtime.
        """
        return in_buckets(self._run, feeds, self._buckets) if self._buckets else self._run(feeds)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:
            if any(text in str(error) for text in _OUT_OF_MEMORY):
                raise OutOfMemory(str(error).splitlines()[0]) from error
            raise
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}
