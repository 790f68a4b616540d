"""ONNX Runtime sessions, and the provider that they run on.

A provider that was asked for and did not come up is an error with its reason; it is never replaced
in silence by a slower one.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.runtime.errors import UserError
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.provider_option import ProviderOption

Array = NDArray[Any]
# Where a plan comes from: measured now, or earlier on this machine; the operator; or nowhere.
PlanSource = Literal["measured", "cached", "set", "default"]

# The sizes of the batches that a GPU sees.
BUCKETS = (1, 2, 4, 8, 16, 32, 64)

_WARNINGS_AND_LESS = 3
# What ONNX Runtime says when memory is short: its arenas, the C++ library, CUDA and its libraries.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")


class Provider(StrEnum):
    """Where graphs run."""

    CUDA = "cuda"
    CPU = "cpu"


class ProviderUnavailable(UserError):
    """The provider that was asked for did not come up; the message says why."""


class GraphError(UserError):
    """A graph cannot be loaded, or is not what its manifest says."""


class OutOfMemory(MemoryError):
    """A run needed more memory than there is; fewer rows may fit."""


@dataclass(frozen=True)
class ExecutionPlan:
    """How a provider is best kept busy.

    `workers` batches run at a time, each with `threads` threads and at most `max_rows` rows; one
    that has the machine to itself runs with `alone` threads, where that is more than 0. Where there
    are `buckets`, in rising order, a batch is padded to the first that holds it, so that the
    provider only ever sees those sizes.
    """

    workers: int
    threads: int
    max_rows: int
    buckets: tuple[int, ...] = ()
    alone: int = 0
    source: PlanSource = field(default="default", compare=False)


def pick_provider(wish: ProviderOption) -> Provider:
    """Return the provider to use. Raises ProviderUnavailable when CUDA was asked for in vain."""
    if wish == "cpu":
        return Provider.CPU
    reason = cuda_unavailable_reason()
    if reason is None:
        return Provider.CUDA
    if wish == "cuda":
        raise ProviderUnavailable(reason)
    return Provider.CPU


def cuda_unavailable_reason() -> str | None:
    """Return why CUDA cannot be used here, or None when it can.

    The driver and the libraries are looked for before ONNX Runtime is asked, which would print an
    error for every session on a machine without a GPU.
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


def plan_for(provider: Provider) -> ExecutionPlan:
    """Return the plan for a provider, without measuring.

    On a CPU, runs side by side beat threads inside one run, and large batches bring nothing but
    waiting. On a GPU one large batch at a time keeps it full, and every new size costs a search
    for kernels.
    """
    if provider is Provider.CUDA:
        return ExecutionPlan(workers=1, threads=1, max_rows=64, buckets=BUCKETS)
    return ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=8)


def in_buckets(
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    feeds: Mapping[str, Array],
    buckets: Sequence[int],
) -> dict[str, Array]:
    """Run `feeds` in batches of the sizes of `buckets` alone, and return their own rows.

    A batch between two sizes is padded with its first row, which is as valid as any; one larger
    than the last is run in several. With a single bucket every row is always run in company of the
    same size, on which a GPU's choice of kernels, and so the last bits, may depend.
    """
    rows = len(next(iter(feeds.values())))
    parts = []
    for start in range(0, rows, buckets[-1]):
        part = {name: array[start : start + buckets[-1]] for name, array in feeds.items()}
        count = min(rows - start, buckets[-1])
        missing = next(size for size in buckets if size >= count) - count
        if missing:
            part = {
                name: np.concatenate([array, np.repeat(array[:1], missing, axis=0)])
                for name, array in part.items()
            }
        parts.append({name: array[:count] for name, array in run(part).items()})
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Session:
    """One graph, loaded. Several threads may run it at a time."""

    def __init__(self, path: Path, provider: Provider, plan: ExecutionPlan) -> None:
        """Load the graph. Raises GraphError, or ProviderUnavailable."""
        options = ort.SessionOptions()
        options.log_severity_level = _WARNINGS_AND_LESS
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores from the other workers and the encoders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if provider is Provider.CUDA:
            providers.insert(0, ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}))
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise GraphError(f"{path.name} cannot be loaded: {reason}") from error
        got = self._session.get_providers()[0]
        if provider is Provider.CUDA and got != "CUDAExecutionProvider":
            raise ProviderUnavailable(f"{path.name} was given {got} in place of CUDA")
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self._buckets = plan.buckets

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch: arrays whose first axis are the rows, by input name.

        Raises OutOfMemory, or whatever ONNX Runtime raises.
        """
        return in_buckets(self._run, feeds, self._buckets) if self._buckets else self._run(feeds)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise OutOfMemory(str(error).splitlines()[0]) from error
            raise
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}
