"""Targets of files that other programs wrote: safetensors, an index of weights, npy, pictures, tokenizers, configs and adapters.

The judges are numpy for npy, Pillow for pictures, and a reader of safetensors of a few lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from document_edits import deep_stack, dump, make_mutator, read_edits
from mutations import join_safetensors, mutate_npy, mutate_safetensors, split_safetensors
from PIL import Image
from watching import Target, WrongAnswerError

from netgraph.errors import NetgraphError
from netgraph.io.load import load_model
from netgraph.io.weight_files import read_safetensors, read_weights
from netgraph.models import load_calibration, load_tokenizer, mlp, save_tokenizer, train_tokenizer

SEED = b'{"base":0,"edits":[]}'
CONFIGS: list[Any] = [
    {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 12,
     "max_position_embeddings": 8, "type_vocab_size": 2, "hidden_act": "gelu", "id2label": {"0": "a", "1": "b"}, "torch_dtype": "float32"},
    {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 12, "n_positions": 8, "task_specific_params": {"a": {"max_length": 5}}},
    {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_channels": 3},
]  # fmt: skip


def list_safetensors() -> list[bytes]:
    """Return small files of weights."""
    numbers = np.arange(6, dtype=np.float32).tobytes()
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    half = {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]}
    state, at, parts = {}, 0, []
    torch.manual_seed(0)
    for name, tensor in mlp((3, 4, 2)).state_dict().items():
        parts.append(tensor.numpy().tobytes())
        state[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    return [
        join_safetensors(state, b"".join(parts)),
        join_safetensors({"w": entry, "h": half, "__metadata__": {"format": "pt"}}, numbers + b"\0" * 6),
    ]


def check_safetensors(data: bytes, folder: Path) -> None:
    """Read a file of weights, and load it into a network. Numbers must be those of the bytes."""
    path = folder / "w.safetensors"
    path.write_bytes(data)
    tensors = read_safetensors(path)
    header, numbers = split_safetensors(data)
    if set(tensors) != set(header) - {"__metadata__"}:
        raise WrongAnswerError("a safetensors file was read with other names")
    for name, tensor in tensors.items():
        begin, end = header[name]["data_offsets"]
        if tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() != numbers[begin:end]:
            raise WrongAnswerError("a safetensors file was read with other numbers")
    with contextlib.suppress(NetgraphError):  # most weights do not fit the network
        load_model(path, arch="netgraph.models:mlp", arch_args={"sizes": (3, 4, 2)})


def list_weight_indices() -> list[Any]:
    """Return an index of weights in two files."""
    return [
        {
            "metadata": {"total_size": 30},
            "weight_map": {"0.weight": "a.safetensors", "0.bias": "a.safetensors", "w": "b.safetensors"},
        }
    ]


def check_weight_index(data: bytes, folder: Path) -> None:
    """Read the weights of an index. Each must be the tensor of its file."""
    _, index = read_edits(data, list_weight_indices())
    files = dict(zip(("a.safetensors", "b.safetensors"), list_safetensors(), strict=True))
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    path = folder / "m.safetensors.index.json"
    dump(index, path)
    read = read_weights(path)
    for name, file in index["weight_map"].items():
        header, numbers = split_safetensors(files[file])
        if (
            read[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            != numbers[slice(*header[name]["data_offsets"])]
        ):
            raise WrongAnswerError("an index gave another tensor than its file holds")


def list_arrays() -> list[bytes]:
    """Return npy files of some kinds of numbers."""
    arrays = [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.ones((2, 4), np.float16),
    ]
    out = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        out.append(buffer.getvalue())
    return out


def check_array(data: bytes, folder: Path) -> None:
    """Read calibration data. Rows must be those that numpy reads."""
    path = folder / "x.npy"
    path.write_bytes(data)
    rows = load_calibration(path, example=torch.zeros(2, 4), n=5).inputs
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if len(array) <= 5 and not np.array_equal(rows.numpy(), array.reshape(len(array), -1).astype(np.float32)):
        raise WrongAnswerError("an npy file was read with other numbers")


def list_pictures() -> list[bytes]:
    """Return a small picture in each format."""
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    out = []
    for name in ("PNG", "JPEG", "BMP", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, name)
        out.append(buffer.getvalue())
    return out


def check_picture(data: bytes, folder: Path) -> None:
    """Read a folder with one picture. Numbers lie in [0, 1], and a picture of the right size is read as Pillow reads it."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    (pictures / "a.png").write_bytes(data)
    rows = load_calibration(pictures, example=torch.zeros(1, 3, 8, 8)).inputs
    if not (rows.shape == (1, 3, 8, 8) and float(rows.min()) >= 0 and float(rows.max()) <= 1):
        raise WrongAnswerError("a picture was read outside [0, 1], or with another size")
    with Image.open(io.BytesIO(data)) as picture:
        if picture.size == (8, 8):
            plain = torch.from_numpy(np.array(picture.convert("RGB"), np.float32)).permute(2, 0, 1) / 255
            if float((plain - rows[0]).abs().max()) > 1 / 255 + 1e-6:
                raise WrongAnswerError("a picture of the right size was read with other numbers")


@cache
def list_tokenizers() -> list[Any]:
    """Return the documents of a word-level and of a byte-pair tokenizer."""
    texts = ["a fine film", "a dull film"]
    return [json.loads(train_tokenizer(texts, kind=kind, vocabulary=40).to_str()) for kind in ("word", "bpe")]


def check_tokenizer(data: bytes, folder: Path) -> None:
    """Read a tokenizer. One that is written and read back gives the same tokens."""
    from netgraph.models.data.tokenizer import encode_texts

    _, document = read_edits(data, list_tokenizers())
    path = folder / "words.json"
    dump(document, path)
    tokenizer = load_tokenizer(path)
    tokens = encode_texts(tokenizer, ["a dull film", ""], length=4)
    save_tokenizer(tokenizer, folder / "again.json")
    if not torch.equal(tokens, encode_texts(load_tokenizer(folder / "again.json"), ["a dull film", ""], length=4)):
        raise WrongAnswerError("a tokenizer that was written and read back gives other tokens")


def check_config(data: bytes, folder: Path) -> None:
    """Build the network of a config. Its parameters must fit into the limit of memory."""
    _, config = read_edits(data, CONFIGS)
    path = folder / "hf"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    dump(config, path / "config.json")
    with deep_stack():
        is_large = _is_large(config)
    if is_large:
        return
    load_model(f"hf:{path}")


def _is_large(config: Any) -> bool:
    """Return True for a config with numbers that ask for a network which is honest and large."""
    if isinstance(config, dict):
        return any(map(_is_large, config.values()))
    return (
        any(map(_is_large, config))
        if isinstance(config, list)
        else isinstance(config, (int, float)) and 64 < abs(config) < 2**31
    )


TARGETS = [
    Target("safetensors", check_safetensors, list_safetensors, mutate_safetensors),
    Target(
        "weight_index",
        check_weight_index,
        lambda: [SEED],
        make_mutator(
            list_weight_indices,
            ["a.safetensors", "b.safetensors", "../a.safetensors", "m.safetensors.index.json", "w", "h"],
        ),
    ),
    Target("npy", check_array, list_arrays, mutate_npy),
    Target("picture", check_picture, list_pictures),
    Target(
        "tokenizer",
        check_tokenizer,
        lambda: [SEED, b'{"base":1,"edits":[]}'],
        make_mutator(
            list_tokenizers,
            ["WordPiece", "BPE", "Unigram", "Whitespace", "ByteLevel", "[UNK]", "[PAD]", "(a+)+$", {"Regex": "(a+)+$"}],
        ),
    ),
    Target(
        "config",
        check_config,
        lambda: [b'{"base":%d,"edits":[]}' % i for i in range(len(CONFIGS))],
        make_mutator(
            lambda: CONFIGS,
            ["bert", "gpt2", "BertForSequenceClassification", "owner/name", "relu", "sdpa", "kernels-community/x"],
        ),
    ),
]
