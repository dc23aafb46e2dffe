"""What a call of an operator computes as a layer of PyTorch: the class, its options, its tensors and its inputs.

Each function reads one call as it stands in a serialized graph. It returns None where the call is not exactly the computation of
such a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Shapes = Mapping[str, tuple[int, ...]]


class AnyBatchNorm(_BatchNorm):
    """A batch norm for inputs of any number of dimensions, where the graph does not show how many there are."""

    def _check_input_dim(self, input: Any) -> None:
        """Take every input."""


@dataclass(frozen=True)
class LayerUse:
    """One step of a graph that computes what a layer computes.

    Parameters
    ----------
    kind : type
        Class of the layer.
    options : dict of str to object
        Keyword arguments that make such a layer.
    tensors : dict of str to str
        By its name inside the layer, the name of each parameter or buffer that the step reads.
    inputs : tuple of int
        Places of the arguments of the step that are inputs of the layer.
    training : bool, optional
        Whether the layer is in training mode. None for a layer that computes the same in both modes.
    unused : frozenset of str
        Options on which this step does not depend.
    """

    kind: type[nn.Module]
    options: Mapping[str, Any]
    tensors: Mapping[str, str]
    inputs: tuple[int, ...] = (0,)
    training: bool | None = None
    unused: frozenset[str] = frozenset()

    def fits(self, other: LayerUse) -> bool:
        """Return True if one layer can serve both uses."""
        if self.kind is not other.kind or self.tensors.keys() != other.tensors.keys():
            return False
        unused = self.unused | other.unused
        return all(other.options[name] == value for name, value in self.options.items() if name not in unused)


class ReadCall:
    """The arguments of one call, with the parameters and buffers among them by name.

    Parameters
    ----------
    arguments : list
        As `netgraph.recording.serialize` writes them.
    tensors : dict of str to str
        By node, the parameter or buffer that it reads.
    shapes : dict of str to tuple
        Shapes of parameters and buffers.
    rank : callable ``(argument) -> int or None``
        Number of dimensions of an argument, where the graph shows it.
    """

    def __init__(
        self, arguments: Sequence[Any], tensors: Mapping[str, str], shapes: Shapes, rank: Callable[[Any], int | None]
    ) -> None:
        self.arguments, self.tensors, self.shapes, self.rank = arguments, tensors, shapes, rank

    def get(self, place: int, default: Any = None) -> Any:
        """Return an argument, or its default where the call leaves it out."""
        return self.arguments[place] if place < len(self.arguments) else default

    def name(self, place: int) -> str | None:
        """Return the name of the parameter or buffer at a place, or None if it has none."""
        return self._name_value(self.get(place))

    def _name_value(self, value: Any) -> str | None:
        return self.tensors.get(value["node"]) if isinstance(value, dict) and "node" in value else None

    def shape(self, place: int) -> tuple[int, ...]:
        """Return the shape of the parameter or buffer at a place, () if it has none."""
        name = self.name(place)
        return () if name is None else self.shapes[name]

    def names(self, **places: int) -> dict[str, str] | None:
        """Return the names of tensors by those that the layer has for them, or None if another value stands in the place of one."""
        found = {leaf: self.name(place) for leaf, place in places.items() if self.get(place) is not None}
        return None if None in found.values() else {leaf: str(name) for leaf, name in found.items()}

    def list_names(self, place: int) -> list[str] | None:
        """Return the names of a list of tensors, or None if another value is in it."""
        values = self.get(place)
        names = [self._name_value(value) for value in values] if isinstance(values, list) else [None]
        return None if None in names else [str(name) for name in names]

    def sizes(self, place: int, length: int, default: int) -> tuple[int, ...] | None:
        """Return plain sizes, one for each dimension, or None if they are computed."""
        value = self.get(place, default)
        values = value if isinstance(value, list) else [value]
        if not all(type(n) is int for n in values) or len(values) not in (1, length):
            return None
        return tuple(values) * (length if len(values) == 1 else 1)

    def plain(self, *places: int) -> bool:
        """Return True if the arguments at these places are numbers, or are left out."""
        return all(type(self.get(place)) in (int, float, bool, type(None)) for place in places)


def read_linear(call: ReadCall) -> LayerUse | None:
    """Read ``linear(input, weight, bias)``."""
    tensors, shape = call.names(weight=1, bias=2), call.shape(1)
    if tensors is None or len(shape) != 2:
        return None
    return LayerUse(nn.Linear, {"in_features": shape[1], "out_features": shape[0], "bias": "bias" in tensors}, tensors)


def read_convolution(call: ReadCall, kind: type[nn.Module], dims: int) -> LayerUse | None:
    """Read ``conv(input, weight, bias, stride, padding, dilation, groups)``. The padding may be a word."""
    tensors, shape, groups = call.names(weight=1, bias=2), call.shape(1), call.get(6, 1)
    padding = call.get(4, 0)
    sizes = {
        "stride": call.sizes(3, dims, 1),
        "padding": padding if padding in ("same", "valid") else call.sizes(4, dims, 0),
        "dilation": call.sizes(5, dims, 1),
    }
    if tensors is None or len(shape) != dims + 2 or None in sizes.values() or type(groups) is not int:
        return None
    channels = {"in_channels": shape[1] * groups, "out_channels": shape[0], "kernel_size": shape[2:]}
    return LayerUse(kind, {**channels, **sizes, "groups": groups, "bias": "bias" in tensors}, tensors)


def read_transposed_convolution(call: ReadCall, kind: type[nn.Module], dims: int) -> LayerUse | None:
    """Read ``conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)``."""
    tensors, shape, groups = call.names(weight=1, bias=2), call.shape(1), call.get(6, 1)
    sizes = {
        "stride": call.sizes(3, dims, 1),
        "padding": call.sizes(4, dims, 0),
        "output_padding": call.sizes(5, dims, 0),
        "dilation": call.sizes(7, dims, 1),
    }
    if tensors is None or len(shape) != dims + 2 or None in sizes.values() or type(groups) is not int:
        return None
    channels = {"in_channels": shape[0], "out_channels": shape[1] * groups, "kernel_size": shape[2:]}
    return LayerUse(kind, {**channels, **sizes, "groups": groups, "bias": "bias" in tensors}, tensors)


def read_embedding(call: ReadCall) -> LayerUse | None:
    """Read ``embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse)``."""
    tensors, shape, padding = call.names(weight=0), call.shape(0), call.get(2, -1)
    if tensors is None or len(shape) != 2 or type(padding) is not int or not call.plain(3, 4):
        return None
    options = {
        "num_embeddings": shape[0], "embedding_dim": shape[1], "padding_idx": None if padding == -1 else padding,
        "scale_grad_by_freq": bool(call.get(3, False)), "sparse": bool(call.get(4, False)),
    }  # fmt: skip
    return LayerUse(nn.Embedding, options, tensors, inputs=(1,))


BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def read_batch_norm(call: ReadCall) -> LayerUse | None:
    """Read ``batch_norm(input, weight, bias, mean, variance, training, momentum, eps, cudnn)``.

    The momentum may be the node of `cumulative_factor`: then the layer has none, and counts batches instead.
    """
    tensors, training = call.names(weight=1, bias=2, running_mean=3, running_var=4), call.get(5)
    if not tensors or ("bias" in tensors and "weight" not in tensors) or not call.plain(7):
        return None
    tracks = "running_mean" in tensors
    if tracks != ("running_var" in tensors) or not (tracks or training):
        return None
    momentum = call.get(6)
    options = {
        "num_features": (call.shape(3) or call.shape(1))[0], "eps": call.get(7), "affine": "weight" in tensors,
        "track_running_stats": tracks, "momentum": None if isinstance(momentum, dict) else momentum,
        **({"bias": False} if "weight" in tensors and "bias" not in tensors else {}),
    }  # fmt: skip
    kind = BATCH_NORMS.get(call.rank(call.get(0)) or 0, AnyBatchNorm)
    unused = frozenset() if training and tracks else frozenset({"momentum"})
    return LayerUse(kind, options, tensors, training=bool(training) if tracks else None, unused=unused)


INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def read_instance_norm(call: ReadCall) -> LayerUse | None:
    """Read ``instance_norm(input, weight, bias, mean, variance, use_input_stats, momentum, eps, cudnn)`` without running averages."""
    tensors, kind = call.names(weight=1, bias=2), INSTANCE_NORMS.get(call.rank(call.get(0)) or 0)
    if not tensors or len(tensors) != 2 or kind is None or not call.plain(3, 4, 6, 7) or call.get(5) is not True:
        return None
    if call.get(3) is not None or call.get(4) is not None:
        return None
    options = {"num_features": call.shape(1)[0], "eps": call.get(7), "momentum": call.get(6), "affine": True}
    return LayerUse(kind, options, tensors, unused=frozenset({"momentum"}))


def read_layer_norm(call: ReadCall) -> LayerUse | None:
    """Read ``layer_norm(input, shape, weight, bias, eps, cudnn)``."""
    tensors, shape, eps = call.names(weight=2, bias=3), call.get(1), call.get(4, 1e-5)
    if not tensors or "weight" not in tensors or list(call.shape(2)) != shape or not call.plain(4):
        return None
    return LayerUse(nn.LayerNorm, {"normalized_shape": tuple(shape), "eps": eps, "bias": "bias" in tensors}, tensors)


def read_rms_norm(call: ReadCall) -> LayerUse | None:
    """Read ``rms_norm(input, shape, weight, eps)``."""
    tensors, shape = call.names(weight=2), call.get(1)
    if not tensors or list(call.shape(2)) != shape or not call.plain(3):
        return None
    return LayerUse(nn.RMSNorm, {"normalized_shape": tuple(shape), "eps": call.get(3)}, tensors)


def read_group_norm(call: ReadCall) -> LayerUse | None:
    """Read ``group_norm(input, groups, weight, bias, eps, cudnn)``."""
    tensors, groups = call.names(weight=2, bias=3), call.get(1)
    if not tensors or len(tensors) != 2 or len(call.shape(2)) != 1 or type(groups) is not int or not call.plain(4):
        return None
    options = {"num_groups": groups, "num_channels": call.shape(2)[0], "eps": call.get(4, 1e-5)}
    return LayerUse(nn.GroupNorm, options, tensors)


def read_recurrent(call: ReadCall, kind: type[nn.Module], options: Mapping[str, Any]) -> LayerUse | None:
    """Read ``lstm(input, state, weights, biases, layers, dropout, training, bidirectional, batch_first)``, and gru and rnn alike."""
    names, (bias, layers, dropout, training, both, first) = call.list_names(2), (call.get(i) for i in range(3, 9))
    if (
        not names
        or type(layers) is not int
        or not call.plain(3, 5, 6, 7, 8)
        or any(len(call.shapes[name]) != 2 for name in names[:2])
    ):
        return None
    leaves = [name.rpartition(".")[2] for name in names]
    (gates, n_in), (_, n_out) = call.shapes[names[0]], call.shapes[names[1]]
    projected = kind is nn.LSTM and "weight_hr_l0" in leaves
    hidden = gates // {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    if len(names) != (2 + 2 * bool(bias) + projected) * layers * (2 if both else 1):
        return None
    made = {
        **options, "input_size": n_in, "hidden_size": hidden, "num_layers": layers, "bias": bool(bias), "dropout": dropout,
        "bidirectional": bool(both), "batch_first": bool(first), **({"proj_size": n_out} if projected else {}),
    }  # fmt: skip
    tensors = dict(zip(leaves, names, strict=True))
    return LayerUse(kind, made, tensors, inputs=(0, 1), training=bool(training)) if len(tensors) == len(names) else None


def _convolutions() -> dict[str, Callable[[ReadCall], LayerUse | None]]:
    """Return the readers of convolutions in one, two and three dimensions."""
    readers: dict[str, Callable[[ReadCall], LayerUse | None]] = {}
    plain, transposed = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for dims in (1, 2, 3):
        for overload in ("default", "padding"):
            readers[f"aten.conv{dims}d.{overload}"] = partial(read_convolution, kind=plain[dims - 1], dims=dims)
        overload = "default" if dims == 1 else "input"
        reader = partial(read_transposed_convolution, kind=transposed[dims - 1], dims=dims)
        readers[f"aten.conv_transpose{dims}d.{overload}"] = reader
    return readers


READERS: dict[str, Callable[[ReadCall], LayerUse | None]] = {
    **_convolutions(),
    "aten.linear.default": read_linear,
    "aten.embedding.default": read_embedding,
    "aten.batch_norm.default": read_batch_norm,
    "aten.instance_norm.default": read_instance_norm,
    "aten.layer_norm.default": read_layer_norm,
    "aten.rms_norm.default": read_rms_norm,
    "aten.group_norm.default": read_group_norm,
    "aten.lstm.input": partial(read_recurrent, kind=nn.LSTM, options={}),
    "aten.gru.input": partial(read_recurrent, kind=nn.GRU, options={}),
    "aten.rnn_tanh.input": partial(read_recurrent, kind=nn.RNN, options={"nonlinearity": "tanh"}),
    "aten.rnn_relu.input": partial(read_recurrent, kind=nn.RNN, options={"nonlinearity": "relu"}),
}
