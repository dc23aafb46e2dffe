"""Paths of every wrong kind, for commands and functions that read or write files."""

import os

HUGE = 2**40  # bytes, more than the memory of a machine that runs the tests
JUNK = bytes(range(256)) * 8


def _link_loop(path):
    path.symlink_to(path.name)


def _lie_behind_a_file(path):
    path.parent.write_text("x")


def _make_sparse(path):
    path.touch()
    os.truncate(path, HUGE)


def _link(target):
    return lambda path: path.symlink_to(target)


KINDS = {  # by name: how the path is spelled before its suffix, and what is made there
    "missing": ("missing", None),
    "in no folder": ("nowhere/x", None),
    "behind a file": ("file/x", _lie_behind_a_file),
    "folder": ("folder", lambda path: path.mkdir()),
    "empty": ("empty", lambda path: path.touch()),
    "junk": ("junk", lambda path: path.write_bytes(JUNK)),
    "text": ("text", lambda path: path.write_text("hello\n")),
    "long name": ("n" * 300, None),
    "long path": ("/".join(["d" * 200] * 25), None),
    "symlink loop": ("loop", _link_loop),
    "dangling link": ("dangling", _link("nothing-is-here")),
    "pipe": ("pipe", os.mkfifo),
    "zeros": ("zeros", _link("/dev/zero")),
    "null": ("null", _link("/dev/null")),
    "sparse": ("sparse", _make_sparse),
    "line break": ("two\nlines", lambda path: path.write_bytes(JUNK)),
    "not UTF-8": (os.fsdecode(b"caf\xe9"), lambda path: path.write_bytes(JUNK)),
}
DEVICES = ("zeros", "null")  # never written to: a fault would replace the device of this machine


def make_wrong_path(folder, kind, suffix):
    """Make a path of a kind in a folder and return it."""
    name, make = KINDS[kind]
    path = folder / f"{name}{suffix}"
    if make is not None:
        make(path)
    return path
