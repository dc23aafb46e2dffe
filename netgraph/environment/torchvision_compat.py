"""Import torchvision where its compiled part cannot be loaded.

Wheels of torchvision on the package index are linked to CUDA. Next to a CPU build of torch they fail, and ``import
torchvision`` stops at ``torchvision::nms``. It is enough to declare the two operators that torchvision registers fake
kernels for: data sets, transforms and the model zoo then work. Nothing is declared where the native library loads.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import torch

from netgraph.environment.import_path import search_installed_packages

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []  # a declaration lives as long as its Library object


@cache
def prepare_torchvision() -> None:
    """Declare ``torchvision::nms`` and ``qnms`` unless torchvision has them. Call this before its first import."""
    with search_installed_packages():
        spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _loads_natively(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SCHEMA)
    _kept.append(library)


def _loads_natively(folder: Path) -> bool:
    """Return True if the compiled part of torchvision loads."""
    for path in sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd")):
        try:
            ctypes.CDLL(str(path))
            return True
        except OSError:
            return False
    return False
