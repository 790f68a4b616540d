"""Checks which execution provider runs the models, and why."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions

from service.doctor.findings import Finding, error, fine, warning
from service.runtime.formatting import format_size
from service.runtime.onnx.machine import ProviderOption

# Packages with the libraries that ONNX Runtime loads.
_LIBRARIES = ("cublas", "cuda-nvrtc", "cuda-runtime", "cudnn", "cufft", "curand", "nvjitlink")
# The CUDA version of the libraries that ONNX Runtime needs, as the driver numbers it.
_CUDA_NEEDED = 13_000


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver of this machine."""

    # The newest version of CUDA that it supports: 13000 is 13.0.
    cuda: int
    # The name and the bytes of memory of each GPU.
    gpus: tuple[tuple[str, int], ...]


def check_provider(option: ProviderOption) -> Iterator[Finding]:
    """Check the provider that `option` selects on this machine, the driver, and the libraries."""
    # Imported here: a broken installation of ONNX Runtime must not keep other checks from running.
    from service.runtime.onnx.sessions import cuda_unavailable_reason  # noqa: PLC0415

    driver = read_driver()
    reason = cuda_unavailable_reason()
    yield selected_provider(option, reason, has_gpu=driver is not None and bool(driver.gpus))
    yield driver_finding(driver)
    libraries = cuda_libraries()
    if libraries:
        listed = ", ".join(f"{name} {number}" for name, number in libraries.items())
        yield fine("cuda libraries", listed, **libraries)
    elif driver is not None:
        yield fine("cuda libraries", "no packages of NVIDIA; those of the system are used")


def selected_provider(option: ProviderOption, reason: str | None, *, has_gpu: bool) -> Finding:
    """Return which provider runs the models. `reason` is why CUDA is not available, if it is not.

    A GPU that stays unused is a warning.
    """
    details = {"option": option, "cuda_unavailable": reason}
    if option == "cpu":
        if reason is None:
            return warning(
                "provider",
                "cpu, as set, although CUDA is available",
                "use --provider auto, unless the GPU is for something else",
                provider="cpu",
                **details,
            )
        return fine("provider", "cpu, as set", provider="cpu", **details)
    if reason is None:
        return fine("provider", "cuda", provider="cuda", **details)
    if option == "cuda":
        return error(
            "provider",
            f"cuda is required, and not available: {reason}",
            _repair(reason, has_gpu=has_gpu) + "; or use --provider auto",
            provider=None,
            **details,
        )
    if has_gpu:
        return warning(
            "provider",
            f"cpu, although there is a GPU: {reason}",
            _repair(reason, has_gpu=True),
            provider="cpu",
            **details,
        )
    return fine("provider", f"cpu: {reason}", provider="cpu", **details)


def driver_finding(driver: Driver | None) -> Finding:
    """Check the NVIDIA driver; None if there is none."""
    if driver is None:
        return fine("gpu", "no NVIDIA driver: models run on the CPU")
    if not driver.gpus:
        return warning(
            "gpu",
            "the NVIDIA driver finds no GPU",
            "check nvidia-smi; for a container: docker run --gpus all",
        )
    listed = ", ".join(f"{name} ({format_size(memory)})" for name, memory in driver.gpus)
    cuda = f"{driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
    text = f"{listed}; the driver supports CUDA {cuda}"
    details = {"cuda": cuda, "gpus": [name for name, _ in driver.gpus]}
    if driver.cuda < _CUDA_NEEDED:
        return warning("gpu", text, "CUDA 13 is needed: update the NVIDIA driver", **details)
    return fine("gpu", text, **details)


def read_driver() -> Driver | None:
    """Ask the NVIDIA driver for its version and its GPUs."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Driver(version.value, ())
    gpus = []
    for index in range(count.value):
        device, memory = ctypes.c_int(0), ctypes.c_size_t(0)
        name = ctypes.create_string_buffer(128)
        if library.cuDeviceGet(ctypes.byref(device), index) != 0:
            continue
        library.cuDeviceGetName(name, len(name), device)
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        gpus.append((name.value.decode(errors="replace"), memory.value))
    return Driver(version.value, tuple(gpus))


def cuda_libraries() -> dict[str, str]:
    """Return the versions of the installed packages with CUDA libraries."""
    found = {}
    for each in distributions():
        name = (each.metadata["Name"] or "").lower()
        if name.startswith(tuple(f"nvidia-{library}" for library in _LIBRARIES)):
            found[name] = each.version
    return dict(sorted(found.items()))


def _repair(reason: str, *, has_gpu: bool) -> str:
    if "no CUDA provider" in reason:
        return "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu>=1.31,<1.32'"
    if not has_gpu:
        return "check nvidia-smi; for a container: docker run --gpus all"
    return "pip install 'ganymede[gpu]', which brings CUDA 13 and cuDNN 9"
