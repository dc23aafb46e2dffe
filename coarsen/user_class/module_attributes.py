"""Correct the sizes that modules remember, after their parameters have become smaller.

A layer of PyTorch reads its sizes from its parameters, by an entry of `SIZES`. For other modules, sizes are found by number: an
attribute that equals the fine size of something that its parameters run over becomes the coarse size. That is a guess.
`netgraph.coarsen.user_class.convert` proves it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.user_class.size_candidates import Counts, SizeChange, list_coarse_sizes
from netgraph.errors import OwnClassError

Attributes = dict[str, Any]
Attribute = tuple[type, str]


def replace_parameters(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers of a network by smaller ones, by first name. Ties stay ties."""
    first = {id(t): name for name, t in [*network.named_parameters(), *network.named_buffers()]}
    replaced: dict[str, Tensor] = {}
    for module in network.modules():
        for slots in (module._parameters, module._buffers):
            for key, old in list(slots.items()):
                name = "" if old is None else first[id(old)]
                if old is None or name not in tensors:
                    continue
                if name not in replaced:
                    new = tensors[name].detach().clone().to(old.dtype)
                    replaced[name] = nn.Parameter(new, old.requires_grad) if slots is module._parameters else new
                slots[key] = replaced[name]  # type: ignore[assignment]


def set_sizes(network: nn.Module, sizes: SizeChange, ranks: Mapping[Attribute, int] = MappingProxyType({})) -> None:
    """Set every attribute that counts units to the coarse number.

    Parameters
    ----------
    network : torch.nn.Module
        With coarse parameters and the attributes of the fine network.
    sizes : SizeChange
    ranks : dict of (class, name) to int
        Which candidate an attribute takes. The default, 0, is the most likely.

    Raises
    ------
    OwnClassError
        The parameters of a recurrent layer have shapes that its class cannot hold.
    """
    for name, module in network.named_modules():
        read_sizes = next((function for cls, function in SIZES.items() if isinstance(module, cls)), None)
        if read_sizes is not None:
            for key, value in read_sizes(module, name, sizes).items():
                setattr(module, key, value)
        elif not _is_torch_module(module):
            counts = sizes.collect_sizes(name)
            for key, value in vars(module).items():
                options = _list_options(key, value, counts)
                vars(module)[key] = options[min(ranks.get((type(module), key), 0), len(options) - 1)]
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            _check_recurrent_shapes(module, name)


def iterate_ranks(network: nn.Module, sizes: SizeChange) -> Iterator[dict[Attribute, int]]:
    """Yield ranks for `set_sizes`, the most likely first: all 0, then one attribute of a class changed, then two."""
    n_options: dict[Attribute, int] = {}
    for name, module in network.named_modules():
        if _is_torch_module(module) or isinstance(module, tuple(SIZES)):
            continue
        counts = sizes.collect_sizes(name)
        for key, value in vars(module).items():
            options, attribute = len(_list_options(key, value, counts)), (type(module), key)
            if options > 1:
                n_options[attribute] = max(n_options.get(attribute, 0), options)
    for n in range(3):
        for keys in itertools.combinations(n_options, n):
            for ranks in itertools.product(*(range(1, n_options[key]) for key in keys)):
                yield dict(zip(keys, ranks, strict=True))


def _list_options(name: str, value: Any, counts: Counts) -> list[Any]:
    """Return the candidates of an attribute, the most likely first. Equal numbers in a tuple are mostly geometry."""
    if type(value) is int:
        return list_coarse_sizes(name, value, counts)
    changed = recount_value(name, value, counts)
    if changed is value or changed == value:
        return [value]
    return [value, changed] if len(value) > 1 and len(set(value)) == 1 else [changed, value]


def recount_value(name: str, value: Any, counts: Counts) -> Any:
    """Return a number, or a list or tuple of numbers, for the coarse network. Other values stay as they are."""
    if type(value) is int:
        return list_coarse_sizes(name, value, counts)[0]
    if type(value) in (list, tuple) and value and all(type(n) is int for n in value):
        return type(value)(list_coarse_sizes(name, n, counts)[0] for n in value)
    return value


def _is_torch_module(module: nn.Module) -> bool:
    """Return True for the modules of torch.nn."""
    return type(module).__module__.startswith("torch.nn.")


def _linear_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a linear layer."""
    return {"out_features": layer.weight.shape[0], "in_features": layer.weight.shape[1]}


def _bilinear_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a bilinear layer."""
    return dict(zip(("out_features", "in1_features", "in2_features"), layer.weight.shape, strict=True))


def _conv_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a convolution."""
    groups: int | None = 1
    if layer.groups > 1:
        groups = sizes.coarse_leading_size(_join_name(name, "weight"), 0, layer.groups)
    if groups is None:  # no axis counts the groups: they shrink like the channels
        n_channels = layer.in_channels if layer.transposed else layer.out_channels
        groups = layer.groups * layer.weight.shape[0] // n_channels
    first, second = ("in_channels", "out_channels") if layer.transposed else ("out_channels", "in_channels")
    return {"groups": groups, first: layer.weight.shape[0], second: layer.weight.shape[1] * groups}


def _batch_norm_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a batch norm or instance norm."""
    tensor = next((t for t in (layer.weight, layer.running_mean) if t is not None), None)
    return {} if tensor is None else {"num_features": tensor.shape[0]}


def _group_norm_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a group norm."""
    if layer.weight is None:
        return {}
    groups = sizes.coarse_leading_size(_join_name(name, "weight"), 0, layer.num_groups) if layer.num_groups > 1 else 1
    return {"num_channels": layer.weight.shape[0], "num_groups": layer.num_groups if groups is None else groups}


def _layer_norm_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a layer norm or RMS norm."""
    if layer.weight is not None:
        return {"normalized_shape": tuple(layer.weight.shape)}
    counts = sizes.collect_sizes(name.rpartition(".")[0])  # without parameters, use the sizes in the module around it
    return {
        "normalized_shape": tuple(list_coarse_sizes("normalized_shape", n, counts)[0] for n in layer.normalized_shape)
    }


def _embedding_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of an embedding."""
    return {"num_embeddings": layer.weight.shape[0], "embedding_dim": layer.weight.shape[1]}


def _recurrent_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a recurrent layer."""
    layer._flat_weights = [getattr(layer, key, None) for key in layer._flat_weights_names]
    attributes = {
        "input_size": layer.weight_ih_l0.shape[1],
        "hidden_size": layer.weight_ih_l0.shape[0] // _count_gates(layer),
    }
    return attributes | ({"proj_size": layer.weight_hr_l0.shape[0]} if layer.proj_size else {})


def _recurrent_cell_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a recurrent cell."""
    return {"input_size": layer.weight_ih.shape[1], "hidden_size": layer.weight_hh.shape[1]}


def _attention_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of multi-head attention. Whole heads merge, and each keeps its width."""
    width = layer.out_proj.weight.shape[1]
    attributes = {"embed_dim": width, "num_heads": max(width // layer.head_dim, 1), "kdim": width, "vdim": width}
    if not layer._qkv_same_embed_dim:
        attributes |= {"kdim": layer.k_proj_weight.shape[1], "vdim": layer.v_proj_weight.shape[1]}
    return attributes


def _prelu_sizes(layer: Any, name: str, sizes: SizeChange) -> Attributes:
    """Return the sizes of a PReLU."""
    return {"num_parameters": layer.weight.shape[0]}


SIZES: dict[type[nn.Module], Callable[[Any, str, SizeChange], Attributes]] = {
    nn.Linear: _linear_sizes,
    nn.Bilinear: _bilinear_sizes,
    nn.modules.conv._ConvNd: _conv_sizes,
    nn.modules.batchnorm._NormBase: _batch_norm_sizes,
    nn.GroupNorm: _group_norm_sizes,
    nn.LayerNorm: _layer_norm_sizes,
    nn.RMSNorm: _layer_norm_sizes,
    nn.Embedding: _embedding_sizes,
    nn.EmbeddingBag: _embedding_sizes,
    nn.RNNBase: _recurrent_sizes,
    nn.RNNCellBase: _recurrent_cell_sizes,
    nn.MultiheadAttention: _attention_sizes,
    nn.PReLU: _prelu_sizes,
}


def _join_name(prefix: str, name: str) -> str:
    """Return the name of a parameter in a module."""
    return f"{prefix}.{name}" if prefix else name


def _count_gates(layer: Any) -> int:
    """Return the number of gates of a recurrent layer."""
    return {"LSTM": 4, "GRU": 3}.get(str(layer.mode), 1)


def _check_recurrent_shapes(module: Any, name: str) -> None:
    """Compare the shapes with those of a new layer.

    The kernels of recurrent layers do not check shapes, and read past the end of their memory.
    """
    options: dict[str, Any] = {"bias": module.bias}
    if isinstance(module, nn.RNNBase):
        options |= {
            "num_layers": module.num_layers,
            "bidirectional": module.bidirectional,
            "proj_size": module.proj_size,
        }
        if module.proj_size == 0:
            del options["proj_size"]
        kind: Any = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(str(module.mode), nn.RNN)
    else:
        kind = next(cls for cls in (nn.LSTMCell, nn.GRUCell, nn.RNNCell) if isinstance(module, cls))
    reference = kind(module.input_size, module.hidden_size, **options, device=torch.device("meta"))
    for key, expected in reference.named_parameters():
        parameter = getattr(module, key)
        if parameter.shape != expected.shape:
            raise OwnClassError(
                f"{name} is a {kind.__name__} of {module.hidden_size} units, and its {key} is {tuple(parameter.shape)}, not "
                f"{tuple(expected.shape)}: its layers shrank differently"
            )
