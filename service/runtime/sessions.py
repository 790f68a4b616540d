"""ONNX Runtime sessions, and the provider that they run on.

A provider that was asked for and did not come up is an error with its reason; it is never replaced
in silence by a slower one.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.runtime.errors import UserError

Array = NDArray[Any]
ProviderWish = Literal["auto", "cuda", "cpu"]

_WARNINGS_AND_LESS = 3


class Provider(StrEnum):
    """Where graphs run."""

    CUDA = "cuda"
    CPU = "cpu"


class ProviderUnavailable(UserError):
    """The provider that was asked for did not come up; the message says why."""


class GraphError(UserError):
    """A graph cannot be loaded, or is not what its manifest says."""


@dataclass(frozen=True)
class ExecutionPlan:
    """How a provider is best kept busy.

    `workers` batches run at a time, each with `threads` threads and at most `max_rows` rows.
    """

    workers: int
    threads: int
    max_rows: int


def pick_provider(wish: ProviderWish) -> Provider:
    """Return the provider to use. Raises ProviderUnavailable when CUDA was asked for in vain."""
    if wish == "cpu":
        return Provider.CPU
    reason = why_no_cuda()
    if reason is None:
        return Provider.CUDA
    if wish == "cuda":
        raise ProviderUnavailable(reason)
    return Provider.CPU


def why_no_cuda() -> str | None:
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
    """Return the plan for a provider.

    On a CPU, runs side by side beat threads inside one run, and large batches bring nothing but
    waiting. On a GPU one large batch at a time keeps it full.
    """
    if provider is Provider.CUDA:
        return ExecutionPlan(workers=1, threads=1, max_rows=64)
    return ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=8)


def usable_cpus() -> int:
    """Return how many CPUs this process may use: by affinity, and by its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # No cgroup v2 here, so no quota that way.
    return max(count, 1)


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

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch: arrays whose first axis are the rows, by input name."""
        values = self._session.run(None, dict(feeds))
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}
