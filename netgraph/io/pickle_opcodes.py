"""Read a pickle's opcodes before anything obeys them: few opcodes can ask for much memory or for ever.

A memo index of 2**31 makes the unpickler clear 16 GiB; a tuple of a tuple twice over, thirty deep, takes 2**30 steps to
hash; a million deep, it overflows the stack. None of these occur in what `torch.save` writes.
"""

from __future__ import annotations

import itertools
import pickletools
from pathlib import Path
from typing import IO, Any

from netgraph.errors import LoadError

N_OPCODES = 10**6  # torch.save writes about thirty a tensor; so many are read in a second
N_GLOBALS = 10_000  # each is looked up by name, which is slow; torch.save writes each name once
HEAVIEST_TUPLE = 20_000  # values in one tuple and the tuples in it, each as often as it stands there
LONGEST_INT = 96  # bits; PyTorch's magic number has 77
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_REFUSED = {
    "DUP", "POP", "POP_MARK", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET",
}  # fmt: skip


def check_opcodes(file: IO[bytes], path: Path, *, n_pickles: int = 1) -> None:
    """Refuse pickles that make much out of few bytes.

    Parameters
    ----------
    file : binary file
        Stands at the first pickle.
    path : path
        Named in errors.
    n_pickles : int
        How many pickles follow one another.

    Raises
    ------
    LoadError
        An opcode, a number of them, or what they would make is not of a PyTorch file.
    """
    steps = itertools.chain.from_iterable(pickletools.genops(file) for _ in range(n_pickles))
    weigher = _StackWeigher()
    for count, (opcode, argument, _) in enumerate(steps):
        problem = weigher.problem(opcode.name, argument)
        if problem is None and count == N_OPCODES:
            problem = f"more than {N_OPCODES:,} opcodes"
        if problem is not None:
            raise LoadError(
                f"{path} holds a pickle with {problem}, which torch.save does not write; save a state dict, or use .safetensors"
            )


def _stack_effect(opcode: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """Return how much an opcode takes from the stack, whether also all down to the last mark, and how much it leaves."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        return before.index(pickletools.markobject), True, len(opcode.stack_after)
    return len(before), False, len(opcode.stack_after)


_EFFECTS = {opcode.name: _stack_effect(opcode) for opcode in pickletools.opcodes}


class _StackWeigher:
    """Follows the unpickler's stack, but keeps the weights of tuples in the place of values."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.n_globals = 0

    def problem(self, name: str, argument: Any) -> str | None:
        """Take one step and say what is wrong with it."""
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
        n_taken, to_mark, n_left = _EFFECTS[name]
        start = (self.marks.pop() if to_mark else len(self.stack)) - n_taken
        if start < 0:
            raise ValueError("it takes more from the stack than it put there")
        weight = 1 + sum(self.stack[start:]) if "TUPLE" in name else 1
        self.stack[start:] = [weight] * n_left
        return f"a tuple of {weight:,} values" if weight > HEAVIEST_TUPLE else None
