"""The device and the precision of training."""

from __future__ import annotations

import os
from typing import Literal

import torch

from service.runtime.errors import UserError
from training.recipe.options import Options


class DeviceUnavailable(UserError):
    """The requested device is not available."""


Precision = Literal["float32", "bfloat16"]


class DeviceOptions(Options):
    """The section `device`. `auto` selects the fastest device, and bfloat16 if it is supported."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def pick_device(self) -> torch.device:
        """Return the device. With several GPUs, each process gets its own.

        Raises DeviceUnavailable.
        """
        available = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        kind: str = self.device
        if kind == "auto":
            kind = next(name for name, is_available in available.items() if is_available)
        if not available[kind]:
            raise DeviceUnavailable(f"device.device is {kind!r}, but PyTorch finds no such device")
        if kind == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
            return device
        return torch.device(kind)

    def pick_precision(self, device: torch.device) -> Precision:
        """Return the precision of autocast on `device`."""
        if self.precision != "auto":
            return self.precision
        match device.type:
            case "cuda":
                return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
            case "cpu":
                return "bfloat16" if _cpu_multiplies_bfloat16() else "float32"
            case _:
                return "float32"


def device_title(device: torch.device) -> str:
    """Return a human-readable name of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "an Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions. Emulation is slower than float32."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
