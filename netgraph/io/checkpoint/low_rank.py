"""Merge a low-rank adapter (LoRA) into the weights that it adapts.

A layer with weight ``W`` of ``d`` by ``k`` gets ``W + s B A``, where ``A`` has ``r`` rows and ``B`` has ``r`` columns. The scale
``s`` is ``alpha / r``, or ``alpha / sqrt(r)`` for rank-stabilised adapters. Names and settings are those of the library peft.

Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022, section 4.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from netgraph.errors import LoadError

PREFIX = "base_model.model."
FACTOR = re.compile(r"(.*)\.lora_(embedding_)?(A|B)(\.weight|\.bias|$)")
OTHER_KINDS = (  # settings of peft with another formula
    "use_dora", "use_qalora", "alora_invocation_tokens", "layer_replication", "target_parameters", "trainable_token_indices",
    "use_bdlora", "megatron_config", "velora_config", "monteclora_config", "arrow_config",
)  # fmt: skip
MOST_REPETITIONS = 3
MERGE = "Merge it with peft: PeftModel.from_pretrained(base, folder).merge_and_unload(), and save the result."


def check_no_adapters(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a state dict in which adapters stand beside the weights, since their scale is not in it.

    Raises
    ------
    LoadError
    """
    name = next((name for name in state if "lora_" in name), None)
    if name is not None:
        raise LoadError(
            f"{path} holds LoRA adapters that are not merged ({name}), and their scale is not in the file. Give the folder "
            "of the adapter as hf:FOLDER, or call merge_and_unload() before saving."
        )


def merge_adapter(
    weights: Mapping[str, Tensor], adapter: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> dict[str, Tensor]:
    """Return weights with an adapter merged into them.

    Parameters
    ----------
    weights : mapping of str to Tensor
        State dict of the network.
    adapter : mapping of str to Tensor
        Tensors of the adapter, by the names of peft.
    config : mapping
        Contents of its adapter_config.json.
    path : path
        Its folder, for error messages.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    LoadError
        The adapter is of another kind, or a part of it has no place in the network.
    """
    _check_kind(config, path)
    merged, factors = dict(weights), dict[str, dict[str, Tensor]]()
    for name, tensor in adapter.items():
        short = name.removeprefix(PREFIX)
        found = FACTOR.fullmatch(short)
        if found is None:
            _replace(merged, short.replace(".base_layer.", "."), tensor, path)
        else:
            factors.setdefault(found[1], {})[f"{found[2] or ''}{found[3]}{found[4].replace('.weight', '')}"] = tensor
    for module, parts in factors.items():
        _add_product(merged, module, parts, config, path)
    return merged


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Refuse adapters of another formula."""
    kind = str(config.get("peft_type", "LORA"))
    other = kind if kind != "LORA" else next((name for name in OTHER_KINDS if config.get(name)), None)
    if other is not None:
        raise LoadError(f"{path} is an adapter of the kind {other}, which netgraph does not merge. {MERGE}")


def _replace(merged: dict[str, Tensor], name: str, tensor: Tensor, path: Path) -> None:
    """Replace a tensor that the adapter stores whole, such as a new head or a bias."""
    if name not in merged or merged[name].shape != tensor.shape:
        raise LoadError(
            f"{path}: the adapter holds {name} of shape {tuple(tensor.shape)}, which its base network does not have. {MERGE}"
        )
    merged[name] = tensor.to(merged[name].dtype)


def _add_product(
    merged: dict[str, Tensor], module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], path: Path
) -> None:
    """Add ``s B A`` to the weight of a module, and ``s`` times the bias of ``B`` to its bias."""
    name = f"{module}.weight"
    embedding = "embedding_A" in parts
    first, second = (parts.get(f"{'embedding_' * embedding}{factor}") for factor in "AB")
    if (
        first is None
        or second is None
        or name not in merged
        or parts.keys() - {"A", "B", "B.bias", "embedding_A", "embedding_B"}
    ):
        raise LoadError(f"{path}: the adapter of {module} does not fit its base network. {MERGE}")
    scale = _compute_scale(module, first.shape[0], config)
    weight = merged[name]
    product = _multiply_factors(first, second, weight.numel())
    delta = None if product is None else product.T if embedding or config.get("fan_in_fan_out") else product
    if delta is None or delta.numel() != weight.numel() or (weight.ndim < 3 and delta.shape != weight.shape):
        raise LoadError(
            f"{path}: the adapter of {module} does not have the shape of {name}, {tuple(weight.shape)}. {MERGE}"
        )
    merged[name] = _add(weight, scale * delta.reshape(weight.shape))
    if "B.bias" in parts:
        if f"{module}.bias" not in merged:
            raise LoadError(f"{path}: the adapter of {module} has a bias, and its base network has none. {MERGE}")
        merged[f"{module}.bias"] = _add(merged[f"{module}.bias"], scale * parts["B.bias"].float())


def _multiply_factors(first: Tensor, second: Tensor, size: int) -> Tensor | None:
    """Return ``B A`` with flat rows, or None for factors that are no matrices or 1x1 convolutions behind others, or of another size."""
    wide = math.prod(second.shape[2:]) > 1
    if wide or min(first.ndim, second.ndim) < 2 or second.shape[1] != first.shape[0]:
        return None
    if second.shape[0] * math.prod(first.shape[1:]) != size:  # two narrow factors could have a huge product
        return None
    return second.flatten(1).float() @ first.flatten(1).float()


def _compute_scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return the factor of the product for a module."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((a for key, a in patterns.items() if _matches(str(key), module)), config.get("lora_alpha", 8))
    return float(alpha) / max(rank**0.5 if config.get("use_rslora") else rank, 1)


def _matches(pattern: str, module: str) -> bool:
    """Return True if a pattern of peft, which is a regular expression, matches the end of a name.

    A stranger's expression could take for ever, which needs several repetitions.
    """
    if len(re.findall(r"[*+{?]", pattern)) > MOST_REPETITIONS or re.search(r"\)[*+{?]", pattern):
        raise LoadError(f"the adapter has the pattern {pattern!r}, which netgraph does not read. {MERGE}")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise LoadError(f"the adapter has the pattern {pattern!r} ({error}). {MERGE}") from error


def _add(weight: Tensor, change: Tensor) -> Tensor:
    """Return the sum, rounded once to the precision of the weight."""
    total = weight.to(torch.promote_types(weight.dtype, torch.float32)) + change
    return total.to(weight.dtype)
