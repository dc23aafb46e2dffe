"""Settings that training scripts save beside weights, such as an ``argparse.Namespace``, read as inert stand-ins.

`torch.load(weights_only=True)` refuses a file for such an object, although its weights need no code. Here a known class of
settings is replaced by an empty object when its file is read. The class itself is never imported. Its values are lost, and
netgraph needs none of them.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

OBJECTS = frozenset({
    "argparse.Namespace", "types.SimpleNamespace", "typing.Any", "datetime.datetime", "datetime.date", "datetime.timedelta",
    "builtins.int", "builtins.float", "builtins.str", "builtins.bool", "builtins.list", "builtins.dict", "builtins.slice",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray", "torch.torch_version.TorchVersion",
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pytorch_lightning.callbacks.{kind}" for kind in (
        "model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping", "lr_monitor.LearningRateMonitor",
    )),
    *(f"omegaconf.{kind}" for kind in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "base.Node",
        "nodes.AnyNode", "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode", "nodes.PathNode",
    )),
})  # fmt: skip
MAPPINGS = frozenset({  # subclasses of dict
    "collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict", "munch.Munch", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode",
    *(f"{package}.AttributeDict" for package in (
        "lightning.fabric.utilities.data", "lightning_fabric.utilities.data", "lightning.pytorch.utilities.parsing",
        "pytorch_lightning.utilities.parsing", "lightning.fabric.utilities.types", "lightning_utilities.core.apply_func",
    )),
})  # fmt: skip


class SettingsStandIn:
    """Takes the place of an object of settings. It accepts any arguments, items and state, and keeps none."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...


class MappingStandIn(SettingsStandIn):
    """Takes the place of a subclass of dict. The reader of PyTorch fills items into an OrderedDict only."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


@contextlib.contextmanager
def allow_settings() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read settings as stand-ins while the context lasts.

    Other packages allow some of the same names, torch_geometric among them `collections.defaultdict`. PyTorch keeps what is
    allowed as a set, and of two objects with one name either may be used. So theirs step aside until the file is read.
    """
    allowed = torch.serialization.get_safe_globals()
    stand_ins = [*((SettingsStandIn, name) for name in OBJECTS), *((MappingStandIn, name) for name in MAPPINGS)]
    others = [one for one in allowed if _name_of_allowed(one) not in OBJECTS | MAPPINGS]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*stand_ins, *others])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _name_of_allowed(one: Any) -> str:
    """Return the name in files of an object that a package allows."""
    return str(one[1]) if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
