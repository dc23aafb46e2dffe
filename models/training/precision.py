"""Where products in bfloat16 pay."""

from __future__ import annotations

import torch


def supports_bf16(device: str | torch.device = "cpu") -> bool:
    """Return whether a device has units for bfloat16; without them float32 is many times faster.

    Parameters
    ----------
    device : str or torch.device
        Of processors, AVX-512 BF16, AMX and Arm's extension count.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return any("bf16" in name and has is True for name, has in torch.cpu.get_capabilities().items())
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
