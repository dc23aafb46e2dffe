"""Check the opcodes of a pickle before it is unpickled: a few opcodes can ask for much memory or endless time.

A memo index of 2**31 makes the unpickler clear 16 GiB. A tuple that holds a tuple twice, nested thirty deep, takes 2**30
steps to hash. Nested a million deep, it overflows the stack. `torch.save` writes none of these.
"""

from __future__ import annotations

import itertools
import pickletools
from pathlib import Path
from typing import IO, Any

from netgraph.errors import LoadError

N_OPCODES = 10**6  # read in about a second. torch.save writes about thirty a tensor.
N_GLOBALS = 10_000  # each is looked up by name, which is slow. torch.save writes each name once.
HEAVIEST_TUPLE = 20_000  # values of a tuple and of the tuples in it, counted with repetitions
LONGEST_INT = 96  # bits. The magic number of PyTorch has 77.
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_REFUSED = {
    "DUP", "POP", "POP_MARK", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET",
}  # fmt: skip


def check_opcodes(file: IO[bytes], path: Path, *, n_pickles: int = 1) -> None:
    """Refuse pickles that create large objects from few bytes.

    Parameters
    ----------
    file : binary file
        Positioned at the first pickle.
    path : path
        Name of the file, for error messages.
    n_pickles : int, default=1
        Number of pickles that follow one another.

    Raises
    ------
    LoadError
        An opcode, the number of opcodes, or the size of an object does not occur in files of PyTorch.
    """
    steps = itertools.chain.from_iterable(pickletools.genops(file) for _ in range(n_pickles))
    stack = _StackWeigher()
    for count, (opcode, argument, _) in enumerate(steps):
        problem = stack.find_problem(opcode.name, argument)
        if problem is None and count == N_OPCODES:
            problem = f"more than {N_OPCODES:,} opcodes"
        if problem is not None:
            raise LoadError(
                f"{path} holds a pickle with {problem}, which torch.save does not write. Save a state dict, or use .safetensors."
            )


def _stack_effect(opcode: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """Return how many values an opcode pops, whether it also pops down to the last mark, and how many it pushes."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        return before.index(pickletools.markobject), True, len(opcode.stack_after)
    return len(before), False, len(opcode.stack_after)


_EFFECTS = {opcode.name: _stack_effect(opcode) for opcode in pickletools.opcodes}


class _StackWeigher:
    """Replay the stack of the unpickler with the sizes of tuples in place of values."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.n_globals = 0

    def find_problem(self, name: str, argument: Any) -> str | None:
        """Take one step and return a description of its problem, or None."""
        if name in _PUTS:
            index = len(self.memo) if argument is None else argument
            self.memo[index] = self.stack[-1]
            return f"a memo of {index:,} entries" if index > N_OPCODES else None
        if name in _GETS:
            self.stack.append(self.memo[argument])
            return None
        if name == "MARK":
            self.marks.append(len(self.stack))
            return None
        if name in _REFUSED:
            return f"the opcode {name}"
        if type(argument) is int and argument.bit_length() > LONGEST_INT:
            return f"an integer of {argument.bit_length():,} bits"
        if "GLOBAL" in name or name == "INST":
            self.n_globals += 1
            if self.n_globals > N_GLOBALS:
                return f"more than {N_GLOBALS:,} globals"
        return self._replace_top(name)

    def _replace_top(self, name: str) -> str | None:
        """Pop and push as the opcode does, and return a description of a tuple that is too large."""
        n_popped, to_mark, n_pushed = _EFFECTS[name]
        start = (self.marks.pop() if to_mark else len(self.stack)) - n_popped
        if start < 0:
            raise ValueError("an opcode pops more values than the stack has")
        weight = 1 + sum(self.stack[start:]) if "TUPLE" in name else 1
        self.stack[start:] = [weight] * n_pushed
        return f"a tuple of {weight:,} values" if weight > HEAVIEST_TUPLE else None
