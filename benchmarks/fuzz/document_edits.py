"""Inputs that are edits of a known document: ``{"base": 0, "edits": [["set", ["graphs", "eval", 0], 7], ...]}``.

A document of a network has thousands of bytes, of which a random change seldom leaves JSON. An edit puts another value in a place
of the document, takes it out, moves another part there, puts it into lists, or repeats it. Inputs stay short, and every edit is JSON.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 7, 2**31, 2**53, 2**63, -(2**63), 10**30, 0.5, 1e300, -0.0, float("nan"), float("inf"), "", "x", "0", "-1",
    "\ud800", "a\nb", "é" * 40, ".", "..", "/", "a/b", [], {}, [[]], [{}], [0], [-1], [None], {"a": 1}, {"": {}}, {"tensor": 0}, {"tensor": -1},
    {"value": 1}, {"list": []}, {"tuple": [{"tensor": 0}]}, {"node": "x"}, {"float": "nan"}, {"torch": "int64"}, {"slice": [None, None, None]},
]  # fmt: skip
DEEPEST = 40
MOST = 6  # edits of an input
KINDS = ("set", "delete", "move", "nest", "repeat", "rename")


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside JSON data, down to `DEEPEST`."""
    if place:
        yield place
    if len(place) == DEEPEST:
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from list_places(part, (*place, key))


def read_edits(data: bytes, bases: Sequence[Any]) -> tuple[int, Any]:
    """Return the number of a base and the edited document. Anything that is no list of edits leaves the document as it is."""
    try:
        text = json.loads(data)
        number = text["base"] % len(bases)
        edits = list(text["edits"])[:MOST]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0, copy.deepcopy(bases[0])
    document = copy.deepcopy(bases[number])
    for edit in edits:
        document = _apply(document, edit)
    return number, document


def _apply(document: Any, edit: Any) -> Any:
    """Return a document with one edit. An edit of a place that is not there changes nothing."""
    if not (isinstance(edit, list) and len(edit) == 3 and edit[0] in KINDS and isinstance(edit[1], list)):
        return document
    kind, place, value = edit
    try:
        if not place:
            return value if kind == "set" else document
        parent = _get(document, place[:-1])
        _change(parent, place[-1], kind, value, document)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError):
        pass
    return document


def _get(document: Any, place: Sequence[Any]) -> Any:
    for key in place:
        document = document[key]
    return document


def _change(parent: Any, key: Any, kind: str, value: Any, document: Any) -> None:
    """Change an entry of a dict or a list in place."""
    if kind == "delete":
        del parent[key]
    elif kind == "set":
        parent[key] = value
    elif kind == "move":
        parent[key] = copy.deepcopy(_get(document, value))
    elif kind == "rename" and isinstance(parent, dict):
        parent[str(value)] = parent.pop(key)
    elif kind == "nest":
        inner = parent[key]
        for _ in range(min(int(value), 1500)):
            inner = [inner]
        parent[key] = inner
    elif kind == "repeat" and isinstance(parent[key], (list, str)) and len(parent[key]) < 1000:
        parent[key] = parent[key] * min(max(int(value), 0), 300)


@contextlib.contextmanager
def deep_stack() -> Iterator[None]:
    """Let json write what an edit has put into thousands of lists, so that it reaches the reader."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * max(limit, 2000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def dump(document: Any, path: Path) -> None:
    """Write a document as a JSON file."""
    with deep_stack():
        text = json.dumps(document)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def make_mutator(bases: Callable[[], Sequence[Any]], words: Sequence[Any] = ()) -> Callable[[bytes, Any], bytes]:
    """Return a mutator of inputs that are edits of these documents. ``words`` are further values to set."""
    return partial(_mutate, bases=bases, words=words)


def _mutate(data: bytes, draw: Any, *, bases: Callable[[], Sequence[Any]], words: Sequence[Any]) -> bytes:
    documents = bases()
    try:
        text = json.loads(data)
        number, edits = int(text["base"]) % len(documents), list(text["edits"])
    except (ValueError, KeyError, TypeError, RecursionError):
        number, edits = draw.randrange(len(documents)), []
    try:
        _, document = read_edits(data, documents)
    except RecursionError:  # moved parts of thousands of lists
        document = documents[number]
    if edits and draw.random() < 0.35:
        del edits[draw.randrange(len(edits))]
    while not edits or (len(edits) < MOST and draw.random() < 0.45):
        edits.append(_draw_edit(document if draw.random() < 0.7 else documents[number], draw, words))
    if draw.random() < 0.05:
        number = draw.randrange(len(documents))
    return json.dumps({"base": number, "edits": edits}, separators=(",", ":")).encode()


def _draw_edit(document: Any, draw: Any, words: Sequence[Any]) -> Any:
    """Return a random edit of a place of a document."""
    places = list(list_places(document))
    if not places:
        return ["set", [], draw.choice(VALUES)]
    place = list(draw.choice(places)) if draw.random() < 0.98 else []
    kind = draw.choice(("set", "set", "set", "set", "delete", "move", "move", "nest", "repeat", "rename"))
    if kind == "move":
        return [kind, place, list(draw.choice(places))]
    if kind in ("nest", "repeat"):
        return [kind, place, draw.choice((1, 2, 3, 70, 2000))]
    if kind == "rename":
        return [
            kind,
            place,
            draw.choice([key for path in places for key in path[-1:] if isinstance(key, str)] or ["x"]),
        ]
    return [kind, place, _draw_value(document, places, place, draw, words)]


def _draw_value(document: Any, places: Sequence[Any], place: Any, draw: Any, words: Sequence[Any]) -> Any:
    """Return a known odd value, a word, a near value of a number, or a number or a text of another place."""
    chance = draw.random()
    if words and chance < 0.35:
        return draw.choice(list(words))
    if chance < 0.5:
        return draw.choice([v for p in places if not isinstance(v := _get(document, p), (dict, list))] or [0])
    old = _get(document, place) if place else None
    if chance < 0.65 and isinstance(old, (int, float)) and not isinstance(old, bool):
        return draw.choice((old + 1, old - 1, -old, old * 2, old * 2**20, float(old)))
    return draw.choice(VALUES)
