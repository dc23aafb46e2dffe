"""Packages that only some parts of netgraph need, and the sentence that names one where it is missing.

The core of netgraph (tracing, coarsening, verification, the page) runs without any of them. `EXTRAS` repeats the extras of
``pyproject.toml``, and a test compares both.
"""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from typing import Any

from netgraph.environment.import_path import search_installed_packages
from netgraph.errors import NetgraphError

EXTRAS = {  # by the name of the module: the package on the index, and the extra of netgraph that brings it
    "mlflow": ("mlflow", "track"),
    "pymetis": ("pymetis", "metis"),
    "networkx": ("networkx", "graphs"),
    "torch_geometric": ("torch-geometric", "pyg"),
    "torchvision": ("torchvision", "vision"),
    "PIL": ("pillow", "vision"),
    "torchmetrics": ("torchmetrics", "train"),
    "sklearn": ("scikit-learn", "train"),
    "matplotlib": ("matplotlib", "figures"),
    "kahip": ("kahip", "kahip"),
    "mtkahypar": ("mtkahypar", "mtkahypar"),
    "networkit": ("networkit", "networkit"),
    "pynndescent": ("pynndescent", "pynndescent"),
    "timm": ("timm", "timm"),
    "transformers": ("transformers", "transformers"),
    "peft": ("peft", "adapters"),
    "lightning": ("lightning", "lightning"),
    "apprise": ("apprise", "alerts"),
    "plotly": ("plotly", "report"),
    "pandas": ("pandas", "frames"),
    "tokenizers": ("tokenizers", "text"),
    "huggingface_hub": ("huggingface-hub", "hub"),
    "onnx": ("onnx", "runtimes"),
    "onnxscript": ("onnxscript", "runtimes"),
    "onnxruntime": ("onnxruntime", "runtimes"),
    "executorch": ("executorch", "executorch"),
    "openvino": ("openvino", "openvino"),
    "neuralop": ("neuraloperator", "operators"),
}


def import_package(module: str, user: str, error: type[NetgraphError] = NetgraphError) -> Any:
    """Import an optional package, or raise an error that names it and its extra.

    It is searched among installed packages. A module of its name in the user's folder is not taken for it.

    Parameters
    ----------
    module : str
        Name to import. Its first part is a key of `EXTRAS`.
    user : str
        What needs the package, as the subject of the message.
    error : type
        Class of the error.

    Returns
    -------
    module
        The module of that name.

    Raises
    ------
    NetgraphError
        The package, or a package that it imports, is not installed.

    Examples
    --------
    >>> import_package("networkx", "this example").__name__
    'networkx'
    """
    try:
        with search_installed_packages():
            return import_module(module)
    except ImportError as reason:
        raise error(describe_missing(module, user, reason)) from reason


def describe_missing(module: str, user: str, reason: ImportError) -> str:
    """Return the sentence for a package that does not import, and the reason if it is installed."""
    top = module.partition(".")[0]
    package, extra = EXTRAS[top]
    if top == "pymetis" and not has_metis_wheels():
        return (
            f"{user} needs {package}, which has no wheels for {platform.system()} on {platform.machine()}. Choose another "
            f"coarsener, or run: pip install {package} (the extra {extra}). It compiles and needs a C++ compiler."
        )
    if reason.name is not None and reason.name.partition(".")[0] == top:
        return f"{user} needs {package}, which is not installed. Run: pip install {package} (the extra {extra})."
    return (
        f"{user} needs {package}, which does not import ({reason}). Run: pip install --force-reinstall {package} (the extra "
        f"{extra})."
    )


def has_metis_wheels() -> bool:
    """Return True if the index has wheels of pymetis for this machine. ``pyproject.toml`` has the same condition."""
    return sys.platform == "darwin" or (sys.platform == "linux" and platform.machine() == "x86_64")
