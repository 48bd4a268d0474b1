"""Pick the device that a run computes on, and describe it for ``run.json``."""

from __future__ import annotations

import os
import platform

import torch

from weaksam.config import UserError

WITHOUT = (
    "device=mps: suppression and other work in float64 runs on the CPU, all precision is float32, and operators that "
    "torch lacks for Apple's GPU end the run unless PYTORCH_ENABLE_MPS_FALLBACK=1 is set, which sends them to the CPU"
)
"""What a run on Apple's GPU does without; said as it begins."""


def pick_device(name: str = "auto") -> torch.device:
    """The torch device called ``name``; ``auto`` takes the first GPU, else the CPU.

    ``mps``, Apple's GPU, is never taken by itself: see `WITHOUT` for what it lacks. Raises `UserError` for a name torch
    does not know or a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"wanted a GPU of Apple for device={name}, found none that this torch can use: set device=auto or cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100].rstrip(".")
        raise UserError(
            f"wanted the device '{name}', found it cannot be used ({reason}): set device=auto or cpu"
        ) from None
    if device.type == "meta":
        raise UserError("wanted a device that computes, found 'meta', which holds no numbers: set device=auto or cpu")
    return device


def describe_device(device: torch.device) -> dict[str, str | int]:
    """Name, processor and number of threads, as plain values for ``run.json``."""
    cpu: dict[str, str | int] = {
        "machine": platform.machine(),
        "cpu_cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
    }
    if device.type != "cuda":
        return {"device": str(device), **cpu}
    return {"device": str(device), "gpu": torch.cuda.get_device_name(device), **cpu}
