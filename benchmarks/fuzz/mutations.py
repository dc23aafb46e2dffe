"""Changes within the structure of formats: opcodes of pickles, entries of zip files, headers of safetensors and npy, and words."""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from document_edits import VALUES, list_places

GLOBALS = (
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch FloatStorage", "torch LongStorage",
    "torch BoolStorage", "torch.storage UntypedStorage", "torch float32", "torch Size", "torch device", "torch.nn.parameter Parameter",
    "collections OrderedDict", "collections Counter", "collections defaultdict", "builtins set", "builtins complex", "builtins int", "builtins dict",
    "argparse Namespace", "pathlib PosixPath", "numpy.core.multiarray scalar", "numpy dtype", "_codecs encode", "os system", "builtins eval",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_parameter_with_state", "torch QInt8Storage",
    "torch.serialization _get_layout", "torch._tensor _rebuild_from_type_v2", "types SimpleNamespace", "easydict EasyDict", "__builtin__ long",
)  # fmt: skip
NAMES = (
    b"w",
    b"weight_orig",
    b"weight_mask",
    b"weight_g",
    b"weight_v",
    b"state_dict",
    b"model",
    b"ema",
    b"fc1.weight",
    b"_metadata",
    b"storage",
    b"cpu",
    b"0",
    b"1",
)


def _text(name: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(name)) + name


def _number(n: int) -> bytes:
    return b"K" + bytes([n]) if 0 <= n < 256 else b"\x8a\x08" + (n % 2**64).to_bytes(8, "little")


def _storage(kind: str, key: bytes, numel: int) -> bytes:
    return b"(" + _text(b"storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text(b"cpu") + _number(numel) + b"tQ"


def _tensor(draw: Any) -> bytes:
    """Return the opcodes of a tensor on a storage, with sizes and strides that may not fit it."""
    numel = draw.choice((0, 1, 4, 6, 8, 2**33))
    sizes = [draw.choice((0, 1, 2, 3, 4, 2**31, 2**62)) for _ in range(draw.randrange(4))]
    strides = [draw.choice((0, 0, 1, 1, 2, 3, -1, 2**40)) for _ in sizes]
    kind = draw.choice(("FloatStorage", "FloatStorage", "LongStorage", "BoolStorage", "HalfStorage", "QInt8Storage"))
    numbers = b"(" + b"".join(map(_number, sizes)) + b"t(" + b"".join(map(_number, strides)) + b"t"
    storage = _storage(kind, draw.choice((b"0", b"1", b"2")), numel) + _number(draw.choice((0, 0, 0, 1, 2**40)))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"\x89}tR"


def _draw_opcodes(draw: Any) -> bytes:
    """Return a short run of opcodes that leaves one value on the stack, or one opcode."""
    pieces = (
        lambda: _tensor(draw), lambda: _tensor(draw),
        lambda: b"c" + draw.choice(GLOBALS).replace(" ", "\n").encode() + b"\n",
        lambda: b"c" + draw.choice(GLOBALS).replace(" ", "\n").encode() + b"\n)R",
        lambda: _text(draw.choice(NAMES)), lambda: _text(draw.choice(NAMES)) + _tensor(draw) + b"s",
        lambda: _number(draw.choice((0, 1, 5, 255, 2**31, 2**63, 2**64 - 1))),
        lambda: b"N", lambda: b"}", lambda: b"]", lambda: b")", lambda: b"(", lambda: b"t", lambda: b"\x85", lambda: b"\x86", lambda: b"\x87",
        lambda: b"R", lambda: b"b", lambda: b"s", lambda: b"u", lambda: b"a", lambda: b"e", lambda: b"Q", lambda: b".", lambda: b"0", lambda: b"2",
        lambda: b"q" + bytes([draw.randrange(6)]), lambda: b"h" + bytes([draw.randrange(6)]), lambda: b"r" + struct.pack("<I", draw.choice((7, 2**20, 2**31))),
        lambda: b"G" + struct.pack(">d", draw.choice((0.0, 1e300, float("nan")))), lambda: b"\x88", lambda: b"\x81", lambda: b"\x93", lambda: b"\x94",
        lambda: b"\x8a" + bytes([draw.choice((0, 1, 9, 200))]) + b"\xff" * 9, lambda: b"\x85" * draw.choice((3, 300)), lambda: b"\x80" + bytes([draw.randrange(6)]),
        lambda: b"}" + _text(b"k") + b"N" + b"s", lambda: b"ccollections\nOrderedDict\n)R" + _text(draw.choice(NAMES)) + _tensor(draw) + b"s",
    )  # fmt: skip
    return draw.choice(pieces)()


def split_opcodes(data: bytes) -> list[bytes]:
    """Return the opcodes of a pickle, each with its argument. What cannot be read is part of the last one."""
    starts: list[int] = []
    try:
        for _, _, position in pickletools.genops(data):
            starts.append(position)
    except Exception:  # the reader fails in many ways
        starts = starts or [0]
    parts = [data[begin:end] for begin, end in pairwise([*starts, len(data)])]
    return parts or [data]


def mutate_pickle(data: bytes, draw: Any) -> bytes | None:
    """Insert, remove, repeat or exchange opcodes. One time in eight libFuzzer changes the bytes."""
    if draw.random() < 0.12:
        return None
    parts = split_opcodes(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(parts))
        chance = draw.random()
        if chance < 0.5:
            parts.insert(draw.choice((at, max(len(parts) - 2, 0))), _draw_opcodes(draw))
        elif chance < 0.65 and len(parts) > 1:
            del parts[at]
        elif chance < 0.75:
            parts.insert(at, draw.choice(parts))
        elif chance < 0.9:
            parts[at] = _change_argument(parts[at], draw)
        else:
            other = draw.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
    return b"".join(parts)


def _change_argument(part: bytes, draw: Any) -> bytes:
    """Return an opcode with another argument, or with another opcode before it."""
    if len(part) == 2:
        return part[:1] + bytes([draw.choice((0, 1, 2, 3, 4, 127, 255))])
    if len(part) > 2 and part[:1] == b"c":
        return b"c" + draw.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
    if len(part) > 5 and part[:1] == b"X":
        return _text(draw.choice(NAMES))
    return _draw_opcodes(draw)


def write_archive(contents: bytes, records: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a zip file as torch.save writes it: data.pkl and records, stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [("a/data.pkl", contents), ("a/version", b"3\n"), *((f"a/{n}", d) for n, d in records)]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def mutate_zip(data: bytes, draw: Any) -> bytes | None:
    """Rebuild a zip file from changed entries, or change a field of one of its headers."""
    chance = draw.random()
    if chance < 0.15:
        return None
    if chance < 0.6:
        return _change_header(data, draw)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [
                (e.filename, archive.read(e), e.compress_type) for e in archive.infolist() if e.file_size < 2**16
            ]
    except Exception:  # an input that is no zip file any more
        return _change_header(data, draw)
    return _write_entries(_change_entries(entries, draw), draw)


def _change_entries(entries: list[Any], draw: Any) -> list[Any]:
    """Return entries of which one is renamed, changed, removed, added or repeated."""
    names = ("a/data.pkl", "a/version", "a/data/0", "a/data/1", "b/data.pkl", "a/DATA.pkl", "data.pkl", "a/constants.pkl", "a/.data/serialization_id",
             "a/byteorder", "/a", "a/../x", "", "a/data/0/", "a/code/x.py", "a//data.pkl", "a/data\0.pkl", "é/data.pkl")  # fmt: skip
    at, chance = draw.randrange(len(entries) + 1), draw.random()
    if chance < 0.3 or at == len(entries):
        entries.insert(
            at,
            (
                draw.choice(names),
                draw.choice((b"", b"3\n", b"big", b"little", b"\0" * 64, b"\x80\2}.")),
                draw.choice((0, 0, 8)),
            ),
        )
    elif chance < 0.5:
        entries[at] = (draw.choice(names), *entries[at][1:])
    elif chance < 0.65:
        del entries[at]
    elif chance < 0.75:
        entries[at] = (*entries[at][:2], 8 - entries[at][2] if entries[at][2] in (0, 8) else 0)
    elif entries[at][0].endswith("pkl"):
        entries[at] = (entries[at][0], mutate_pickle(entries[at][1], draw) or entries[at][1], entries[at][2])
    else:
        entries[at] = (
            entries[at][0],
            entries[at][1][: draw.randrange(65)] + b"\0" * draw.choice((0, 4, 60)),
            entries[at][2],
        )
    return entries


def _write_entries(entries: Sequence[Any], draw: Any) -> bytes:
    buffer = io.BytesIO(b"x" * draw.choice((0, 0, 0, 0, 5)))
    with zipfile.ZipFile(buffer, draw.choice(("w", "w", "w", "a"))) as archive:
        for name, contents, kind in entries:
            archive.writestr(zipfile.ZipInfo(name or "x", (1980, 1, 1, 0, 0, 0)), contents, kind)
        if draw.random() < 0.05:
            archive.comment = b"comment"
    return buffer.getvalue()


def _change_header(data: bytes, draw: Any) -> bytes:
    """Return a zip file with another number in a field of a local header, of the directory, or of its end."""
    marks = [m.start() for m in re.finditer(rb"PK[\x01\x03\x05\x06][\x02\x04\x06\x07]", data)]
    if not marks:
        return data + b"PK\5\6" + b"\0" * 18
    at, size = draw.choice(marks) + draw.randrange(4, 46), draw.choice((1, 2, 4, 4, 8))
    old = int.from_bytes(data[at : at + size], "little")
    new = draw.choice((0, 1, old + 1, old - 1, old * 2, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), len(data))) % 2 ** (
        8 * size
    )
    return data[:at] + new.to_bytes(size, "little") + data[at + size :]


def split_safetensors(data: bytes) -> tuple[Any, bytes]:
    """Return header and numbers of a safetensors file, read without the library.

    Raises
    ------
    ValueError
        The header is no JSON object.
    """
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        raise ValueError("the header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, data[8 + length :]


def join_safetensors(header: Any, numbers: bytes) -> bytes:
    """Return a safetensors file."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def hash_bundle(header: dict[str, Any], numbers: bytes) -> str:
    """Return the digest that a file of netgraph needs, computed from its description alone."""
    metadata = header["__metadata__"]
    digest = hashlib.sha256((metadata["netgraph"] + metadata.get("aliases", "") + metadata.get("pairs", "")).encode())
    dtypes = {
        "F32": "float32",
        "F64": "float64",
        "I64": "int64",
        "U8": "uint8",
        "BF16": "bfloat16",
        "F16": "float16",
        "BOOL": "bool",
    }
    for name in sorted(key for key in header if key != "__metadata__"):
        entry = header[name]
        digest.update(f"{name} torch.{dtypes.get(entry['dtype'])} {tuple(entry['shape'])}".encode())
        digest.update(numbers[slice(*entry["data_offsets"])])
    return digest.hexdigest()


def mutate_safetensors(data: bytes, draw: Any) -> bytes | None:
    """Change an entry of the header, or a byte of the numbers. A file of netgraph gets its right digest two times in three."""
    try:
        header, numbers = split_safetensors(data)
    except (ValueError, RecursionError):
        return None
    if draw.random() < 0.1:
        return None
    if draw.random() < 0.2 and numbers:
        at = draw.randrange(len(numbers))
        numbers = numbers[:at] + bytes([draw.randrange(256)]) + numbers[at + draw.choice((0, 1, 1, 4)) :]
    else:
        _change_tree(header, draw)
    try:
        if draw.random() < 0.66:
            header["__metadata__"]["sha256"] = hash_bundle(header, numbers)
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    return join_safetensors(header, numbers)


def _change_tree(header: Any, draw: Any) -> None:
    """Change one value of a header in place: its metadata hold JSON as text, which is changed as JSON."""
    words = (
        "F32",
        "F64",
        "I64",
        "BF16",
        "F8_E4M3",
        "F4",
        "C64",
        "U8",
        "BOOL",
        [0, 4],
        [0, 16],
        [16, 16],
        [2, 2],
        [2**40],
        [2**62, 2],
        [0],
        "weight",
        "bias",
    )
    places = list(list_places(header))
    place = draw.choice(places) if places else ()
    parent = header
    for key in place[:-1]:
        parent = parent[key]
    if not place:
        header["w"] = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    elif draw.random() < 0.12:
        del parent[place[-1]]
    elif draw.random() < 0.12 and isinstance(parent, dict):
        parent[draw.choice(("weight", "a", "__metadata__", "fc1.weight", ""))] = parent[place[-1]]
    elif isinstance(parent[place[-1]], str) and parent[place[-1]][:1] in ("{", "["):
        parent[place[-1]] = _change_text(parent[place[-1]], draw)
    else:
        parent[place[-1]] = draw.choice((*words, *VALUES))


def _change_text(text: str, draw: Any) -> str:
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if draw.random() < 0.2 or not isinstance(inner, (dict, list)):
        return draw.choice(("[" * 20_000, "{}", "[]", "1", '{"a":"b"}', '["a"]', "null", text[:-1]))
    _change_tree(inner, draw) if isinstance(inner, dict) else inner.append("weight")
    return json.dumps(inner)


def mutate_npy(data: bytes, draw: Any) -> bytes | None:
    """Change a word in the header of an npy file, and write its length."""
    match = re.match(rb"\x93NUMPY([\x01-\x03])\0(..)", data, re.DOTALL)
    if match is None or draw.random() < 0.2:
        return None
    length = int.from_bytes(match[2], "little")
    header, numbers = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    descr = (
        "'<f4'",
        "'>f4'",
        "'<f8'",
        "'|O'",
        "'<M8[s]'",
        "'|S4'",
        "'<c8'",
        "'|b1'",
        "'<i8'",
        "'|V4'",
        "[('a','<f4')]",
        "'<f4,<i4'",
        "'<U3'",
        "'<f2'",
        "'<u8'",
        "''",
    )
    shapes = (
        "(3, 4)",
        "(12,)",
        "()",
        "(0, 4)",
        "(-1,)",
        "(2**40,)",
        "(1099511627776, 1099511627776)",
        "(3,4,)",
        "(True, 12)",
        "3",
        "(3.0,)",
        "[3, 4]",
    )
    change = draw.choice((
        lambda: re.sub(r"'descr': ('[^']*'|\[.*?\])", lambda _: f"'descr': {draw.choice(descr)}", header),
        lambda: re.sub(r"'shape': [^)]*\)", lambda _: f"'shape': {draw.choice(shapes)}", header),
        lambda: re.sub(r"'fortran_order': \w+", lambda _: f"'fortran_order': {draw.choice(('True', 'False', '1', 'None'))}", header),
        lambda: header.replace(draw.choice("{}(),:' "), draw.choice(("", "(" * 200, "-", "0", "\0")), 1),
        lambda: header,
    ))  # fmt: skip
    text = change().encode("latin1", "replace")
    numbers = numbers[: draw.choice((len(numbers), len(numbers), 7, 0))] + b"\1" * draw.choice((0, 0, 1, 48))
    version = draw.choice((match[1], match[1], match[1], b"\2", b"\3"))
    size = len(text).to_bytes(2 if version == b"\1" else 4, "little")
    return b"\x93NUMPY" + version + b"\0" + size + text + numbers


def make_word_mutator(words: Sequence[str], joints: str = "\n") -> Callable[[bytes, Any], bytes | None]:
    """Return a mutator of texts that exchanges, adds and removes words of a dictionary."""
    return partial(_mutate_words, words=words, joints=joints)


def _mutate_words(data: bytes, draw: Any, *, words: Sequence[str], joints: str) -> bytes | None:
    if draw.random() < 0.3:
        return None
    text = data.decode("utf-8", "replace")
    parts = re.split(r"(\W)", text)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(parts))
        chance = draw.random()
        if chance < 0.4:
            parts[at] = draw.choice(words)
        elif chance < 0.7:
            parts.insert(at, draw.choice((*words, *joints)))
        elif len(parts) > 1:
            del parts[at]
    return "".join(parts).encode("utf-8", "surrogatepass")
