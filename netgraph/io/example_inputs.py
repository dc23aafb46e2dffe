"""Example inputs: parsed from texts like ``2x3x224x224`` or ``input_ids=2x16:int64``, or guessed from the network."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.environment.memory import check_memory
from netgraph.environment.torch_internals import FakeTensorMode, TensorMode
from netgraph.errors import LoadError
from netgraph.recording.forward.followed_dtype import find_own_dtype
from netgraph.recording.forward.size_relations import fill_free_sizes
from netgraph.utils.logging import silence_logger
from netgraph.utils.module_state import set_training_mode, swap_state
from netgraph.utils.preserved_state import preserve_attributes
from netgraph.utils.pytree import build_structure, normalize_example, unflatten_tree
from netgraph.utils.text import is_index

DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
}
MOST_SIZES = 64  # dimensions of a tensor of PyTorch
LIMIT = 2**31
INDICES = {
    torch.ops.aten.embedding.default: 1,
    torch.ops.aten.index_select.default: 2,
    torch.ops.aten.index_add.default: 2,
}


def parse_inputs(specs: Sequence[str], *, seed: int = 7619) -> Any:
    """Return the example that texts describe.

    Parameters
    ----------
    specs : sequence of str
        Each is ``SIZES[:DTYPE]``, or each is ``NAME=SIZES[:DTYPE]``. Floats are standard normal. Integers are 0 or 1.
    seed : int, default=7619
        Seed of the random numbers.

    Returns
    -------
    Tensor, tuple of Tensor or dict of str to Tensor
        One tensor, several without names, or tensors by name.

    Raises
    ------
    LoadError
        A text cannot be read, or asks for more numbers than there is memory for, or the seed is out of range.

    Examples
    --------
    >>> from netgraph.io import parse_inputs
    >>> parse_inputs(["2x3x8x8"]).shape
    torch.Size([2, 3, 8, 8])
    >>> sorted(parse_inputs(["input_ids=2x16:int64", "attention_mask=2x16:int64"]))
    ['attention_mask', 'input_ids']
    """
    named = [re.fullmatch(r"(?:([A-Za-z_]\w*)=)?([0-9x]+)(?::(\w+))?", spec) for spec in specs]
    for spec, match in zip(specs, named, strict=True):
        if match is None:
            raise LoadError(
                f"--input {spec!r} is not SIZES[:DTYPE] or NAME=SIZES[:DTYPE], as in 2x3x224x224 or ids=2x16:int64"
            )
    names = [m[1] for m in named if m]
    if any(names) and not all(names):
        raise LoadError("--input: some inputs have names and some have none. Name every input or none.")
    if any(names) and len(set(names)) < len(names):
        raise LoadError(f"--input: {', '.join(str(n) for n in names)} names an input twice. Name each once.")
    if not -(2**63) <= seed < 2**64:
        raise LoadError(f"the seed {seed} does not fit into 64 bits. Give a smaller one.")
    texts = [(m[0], m[2], m[3] or "float32") for m in named if m]
    parts = [(_parse_sizes(*text), text[2]) for text in texts]
    check_memory(sum(measure_example(shape, dtype) for shape, dtype in parts), "--input")
    generator = torch.Generator().manual_seed(seed)
    tensors = [_make_tensor(shape, dtype, generator) for shape, dtype in parts]
    if all(names):
        return dict(zip(names, tensors, strict=True))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _parse_sizes(spec: str, sizes: str, dtype: str) -> list[int]:
    """Return the shape that a text describes, and check it and its dtype."""
    if dtype not in DTYPES:
        raise LoadError(f"--input {spec!r}: there is no dtype {dtype!r}. Use one of {', '.join(DTYPES)}.")
    parts = sizes.split("x", MOST_SIZES)
    if len(parts) > MOST_SIZES:
        raise LoadError(f"--input {spec[:60]!r}... has more than {MOST_SIZES} sizes, and a tensor has no more.")
    if not all(is_index(p) and int(p) > 0 for p in parts):
        raise LoadError(f"--input {spec!r}: sizes are positive numbers joined by x, as in 2x3x224x224")
    shape = [int(p) for p in parts]
    if math.prod(shape) > LIMIT:
        raise LoadError(f"--input {spec!r} has {math.prod(shape):,} numbers, at most {LIMIT:,} are allowed")
    return shape


def measure_example(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of a tensor of an example while it is drawn. Random floats have single precision first."""
    return math.prod(shape) * max(DTYPES[dtype].itemsize, 4)


def _make_tensor(shape: Sequence[int], dtype: str, generator: torch.Generator) -> Tensor:
    """Return a tensor of random numbers."""
    if DTYPES[dtype].is_floating_point:
        return torch.randn(shape, generator=generator).to(DTYPES[dtype])
    return torch.randint(0, 2, shape, generator=generator).to(DTYPES[dtype])


def make_random_like(example: Any, *, seed: int = 7619) -> Any:
    """Return an example with other numbers, drawn as those of `parse_inputs`.

    Parameters
    ----------
    example : Tensor, tuple or dict
    seed : int, default=7619
        Seed of the random numbers.
    """
    leaves: list[Any] = []
    structure, generator = build_structure(example, leaves), torch.Generator().manual_seed(seed)
    drawn = [_make_tensor(leaf.shape, str(leaf.dtype).removeprefix("torch."), generator) for leaf in leaves]
    return unflatten_tree(structure, drawn)


def guess_input(model: nn.Module, first: Sequence[str] = (), *, masks: bool = True) -> tuple[Any, str]:
    """Guess an example from the first layer of a network, and try it on shapes alone.

    Parameters
    ----------
    model : torch.nn.Module
        Network whose input is unknown.
    first : sequence of str, default ()
        Inputs such as ``2x3x32x32``, the shape of the data at hand. One is taken in place of the guess if the network runs on it and it has as
        many dimensions, or if there is no guess.
    masks : bool, default True
        Guess a mask of padding too, for networks of transformers. Rows without padding need none.

    Returns
    -------
    example : Tensor, tuple of Tensor or dict of str to Tensor
    text : str
        The example as options of the command line.

    Raises
    ------
    LoadError
        The network runs on none of the guesses.

    Examples
    --------
    >>> import torch
    >>> from netgraph.io import guess_input
    >>> example, text = guess_input(torch.nn.Linear(6, 3))
    >>> text
    '--input 2x6'
    """
    tried: list[str] = []
    for specs in _with_own_dtype(model, _guess_specs(model, masks)):
        example = parse_inputs(specs)
        if _runs_on_shapes(model, example):
            return _choose_likely(model, first, example) or (example, " ".join(f"--input {spec}" for spec in specs))
        tried.append(" ".join(specs))
    if likely := _choose_likely(model, first, None):
        return likely
    raise LoadError(
        f"the input of the network cannot be guessed (tried {', '.join(tried) or 'nothing'}). Give --input, as in --input 2x3x224x224."
    )


def _choose_likely(model: nn.Module, likely: Sequence[str], guess: Any) -> tuple[Tensor, str] | None:
    """Return the first likely input on which a network runs, and its text, or None.

    Layers of vectors also run on rows of vectors. An input of more dimensions than the guess is therefore left, so that images given to a
    network of vectors are flattened or refused.
    """
    for specs in _with_own_dtype(model, ([spec] for spec in likely)):
        example = parse_inputs(specs)
        fits = guess is None or (isinstance(guess, Tensor) and guess.ndim == example.ndim)
        if fits and _runs_on_shapes(model, example):
            return example, f"--input {specs[0]}"
    return None


def _with_own_dtype(model: nn.Module, guesses: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield guesses in the precision of the network first. Shapes alone do not show that a precision is wrong."""
    own = str(find_own_dtype(model.parameters())).removeprefix("torch.")
    for specs in guesses:
        if own in DTYPES and own != "float32" and any(":" not in spec for spec in specs):
            yield [spec if ":" in spec else f"{spec}:{own}" for spec in specs]
        yield specs


def _guess_specs(model: nn.Module, masks: bool) -> Iterator[list[str]]:
    """Yield guesses for a network, the most likely first."""
    if hasattr(model, "input_shapes"):  # a network saved by netgraph knows its inputs
        yield from _recorded_specs(model)
    if hasattr(model, "config") and hasattr(model, "main_input_name"):
        yield from _huggingface_specs(model, masks)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield ["2x16:int64"]
        elif isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Conv3d)):
            yield from _image_specs(module)
        elif isinstance(module, nn.Linear):
            yield [f"2x{module.in_features}"]
            yield [f"2x16x{module.in_features}"]
        elif isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
            yield [f"2x16x{module.input_size}"]
        else:
            continue
        return


def _recorded_specs(model: Any) -> Iterator[list[str]]:
    """Yield inputs with the shapes and keywords of a recorded graph. Dtypes are not recorded, so all combinations follow."""
    shapes = fill_free_sizes(model.input_shapes, model.size_relations, 2)
    names = {part["tensor"]: f"{name}=" for name, part in model.input_keywords.items() if "tensor" in part}
    sizes = [names.get(i, "") + "x".join(map(str, s)) for i, s in enumerate(shapes)]
    for dtypes in itertools.islice(itertools.product(("", ":int64"), repeat=len(sizes)), 64):
        yield [size + dtype for size, dtype in zip(sizes, dtypes, strict=True)]


def _image_specs(module: nn.Module) -> Iterator[list[str]]:
    """Yield inputs for a convolution, with usual sizes of images, sounds and clips."""
    channels = int(module.in_channels)  # type: ignore[arg-type]
    if isinstance(module, nn.Conv1d):
        yield from ([f"2x{channels}x{n}"] for n in (64, 1024, 16000))
    elif isinstance(module, nn.Conv3d):
        yield from ([f"2x{channels}x{t}x{n}x{n}"] for t, n in ((16, 112), (16, 224)))
    else:
        yield from ([f"2x{channels}x{n}x{n}"] for n in (224, 32, 28, 64, 256, 299))


def _huggingface_specs(model: Any, masks: bool) -> Iterator[list[str]]:
    """Yield inputs for a network of transformers, by the name of its main input."""
    config, name = model.config, model.main_input_name
    size = getattr(config, "image_size", 224)
    size = size[0] if isinstance(size, (list, tuple)) else size
    if name == "pixel_values":
        yield [f"pixel_values=2x{getattr(config, 'num_channels', 3)}x{size}x{size}"]
    elif name == "input_ids":
        if masks:
            yield ["input_ids=2x16:int64", "attention_mask=2x16:int64"]
        yield ["input_ids=2x16:int64"]
        yield ["input_ids=2x16:int64", "decoder_input_ids=2x16:int64"]
    elif name == "input_values":  # one second of sound
        yield ["input_values=2x16000"]
    dummies = model.dummy_inputs if isinstance(getattr(model, "dummy_inputs", None), Mapping) else {}
    specs = [f"{key}={_format_spec(value)}" for key, value in dummies.items() if isinstance(value, Tensor)]
    if specs:
        yield specs


def _format_spec(tensor: Tensor) -> str:
    """Return shape and dtype of a tensor as text."""
    return "x".join(map(str, tensor.shape)) + f":{tensor.dtype}".replace("torch.", "")


class _IntegerLookups(TensorMode):  # type: ignore[misc]  # a private class of torch
    """Refuses lookups by numbers that are no integers, which many versions of PyTorch allow where tensors have shapes alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = INDICES.get(func)
        if place is not None and args[place].is_floating_point():
            raise TypeError(f"{func} takes integers")
        return func(*args, **(kwargs or {}))


def _runs_on_shapes(model: nn.Module, example: Any) -> bool:
    """Return True if a network runs on an example, computed on shapes alone."""
    quiet = silence_logger("torch._subclasses.fake_tensor")  # it logs a traceback for a guess that does not run
    try:
        with preserve_attributes(model), quiet, FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            set_training_mode(model, training=False)
            fake = {n: mode.from_tensor(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
            args, kwargs = normalize_example(example)
            args = tuple(mode.from_tensor(a) for a in args)
            kwargs = {k: mode.from_tensor(v) for k, v in kwargs.items()}
            with swap_state(model, fake), _IntegerLookups():
                model(*args, **kwargs)
        return True
    except Exception:  # then the next guess is tried
        return False
