"""Devices on which products in bfloat16 are fast."""

from __future__ import annotations

import torch


def supports_bf16(device: str | torch.device = "cpu") -> bool:
    """Return True if a device multiplies bfloat16 in hardware. In software it is many times slower than float32.

    Parameters
    ----------
    device : str or torch.device, default "cpu"
        A processor needs AVX-512 BF16, AMX or the bfloat16 extension of Arm.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return any("bf16" in name and has is True for name, has in torch.cpu.get_capabilities().items())
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
