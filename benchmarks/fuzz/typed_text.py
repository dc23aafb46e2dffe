"""Targets of what a user types: sizes, literals, ratios, directions, budgets, options of the solver, alerts and whole command lines.

The judges are `ast.literal_eval`, `float`, a parser of sizes in one line, and a value that is written and read back.
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import os
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import typer
from mutations import make_word_mutator
from watching import Target, WrongAnswerError

from netgraph.cli.main import app
from netgraph.cli.options.parsing import explain_usage_error
from netgraph.coarsen.directions.parse import parse_directions
from netgraph.coarsen.hierarchy.budget import Budget
from netgraph.coarsen.hierarchy.options import (
    CoarsenOptions,
    parse_axis_ratios,
    parse_fixed_units,
    parse_ratio,
    parse_ratio_or_gap,
)
from netgraph.errors import NetgraphError
from netgraph.fas import parse_alerts, parse_options
from netgraph.fas.options.declaration import format_value
from netgraph.fas.options.text import list_option_names
from netgraph.fas.solver.train_options import TrainOptions, parse_numbers, parse_pairs
from netgraph.io import parse_inputs
from netgraph.io.model_zoo import parse_arch_args
from netgraph.utils.options import list_flags

NUMBERS = (
    "0",
    "1",
    "-1",
    "0.5",
    "1e3",
    "1e309",
    "nan",
    "inf",
    "-0",
    "2",
    "16",
    "1_0",
    "٣",
    "²",
    "0x1",
    "1e-9",
    "99999999999999999999",
    "0.9:0.3",
    "",
)
EXCLUDED = {
    "rules",
    "arch",
    "arch_arg",
    "code_dir",
    "trust",
    "download",
    "checkpoints",
    "report",
    "track",
    "resume",
    "data_root",
    "data",
    "json_",
    "output",
    "network_arg",
}
COMMANDS = ("coarsen", "inspect", "verify", "export", "features", "attention", "train", "check", "report", "nothing")


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").split("\n")[:8]


def check_inputs(data: bytes, folder: Path) -> None:
    """Read sizes of inputs. Shapes and dtypes are those of the text."""
    specs = [
        line for line in _lines(data) if sum(map(len, line.split("x"))) < 9
    ]  # honest large inputs take honest memory
    example = parse_inputs(specs)
    tensors = (
        list(example.values())
        if isinstance(example, dict)
        else [example]
        if isinstance(example, torch.Tensor)
        else list(example)
    )
    for spec, tensor in zip(specs, tensors, strict=True):
        sizes, _, dtype = spec.rpartition("=")[2].partition(":")
        if list(tensor.shape) != [int(n) for n in sizes.split("x")] or tensor.dtype != getattr(
            torch, dtype or "float32"
        ):
            raise WrongAnswerError(f"{spec} gave {tuple(tensor.shape)} of {tensor.dtype}")


def check_literal(data: bytes, folder: Path) -> None:
    """Read arguments of an architecture. A literal has the value that Python gives it, and all else stays text."""
    text = data.decode("utf-8", "replace")
    (value,) = parse_arch_args([f"key={text}"]).values()
    try:
        expected = ast.literal_eval(text.lstrip(" \t"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        expected = text
    if repr(value) != repr(expected):
        raise WrongAnswerError("a literal has another value than in Python")


def _check_ratio(text: str) -> None:
    ratio = parse_ratio(text)
    if not (ratio == float(text) or math.isnan(ratio)):
        raise WrongAnswerError("a ratio is not the number of its text")
    options = CoarsenOptions(ratio=ratio)
    options.check()
    if not 0 < options.ratios["*"] <= 1:
        raise WrongAnswerError(f"the ratio {ratio} was accepted")


def _check_gap(text: str) -> None:
    value = parse_ratio_or_gap(text)
    CoarsenOptions(ratio=value).check()
    if isinstance(value, str) and not 0 <= float(value.removeprefix("gap:")) < math.inf:
        raise WrongAnswerError(f"the gap {value} was accepted")


def _check_budget(text: str) -> None:
    budget = Budget.parse(text)
    if f"{budget.kind}={budget.limit!r}" != text and float(text.partition("=")[2]) != budget.limit:
        raise WrongAnswerError("a budget is not that of its text")


def _check_directions(text: str) -> None:
    options = CoarsenOptions(directions=text, n_levels=4)
    options.check()
    steps = parse_directions(text, 4)
    if [{word.strip() for word in step.split("+")} for step in text.split(",")] != [
        set(step) for step in steps[: text.count(",") + 1]
    ]:
        raise WrongAnswerError("directions are not those of their text")
    if CoarsenOptions.from_plain(options.to_plain()).steps != options.steps:
        raise WrongAnswerError("directions that were written are read back otherwise")


def _check_axis_ratio(text: str) -> None:
    ratios = parse_axis_ratios([text])
    CoarsenOptions(ratio={"*": 0.5, **ratios}).check()
    ((axis, ratio),) = ratios.items()
    if f"{axis}={text.rpartition('=')[2]}" != text or not 0 < ratio <= 1:
        raise WrongAnswerError("the ratio of an axis is not that of its text")


def _check_fixed(text: str) -> None:
    for axis, units in (parse_fixed_units([text]) or {}).items():
        if text != f"{axis}={text.rpartition('=')[2]}" or len(units) != text.rpartition("=")[2].count(",") + 1:
            raise WrongAnswerError("fixed units are not those of their text")


def _check_numbers(text: str) -> None:
    for kind in (int, float):
        if any(str(n) == "" for n in parse_numbers("widths", text, kind)):
            raise WrongAnswerError("an empty number")


VALUES = {
    "ratio": _check_ratio,
    "gap": _check_gap,
    "budget": _check_budget,
    "directions": _check_directions,
    "axis": _check_axis_ratio,
    "fix": _check_fixed,
    "numbers": _check_numbers,
}


def check_values(data: bytes, folder: Path) -> None:
    """Read values of options of coarsening, each as ``KIND TEXT``."""
    for line in _lines(data):
        kind, _, text = line.partition(" ")
        if kind in VALUES:
            VALUES[kind](text)


def check_solver_options(data: bytes, folder: Path) -> None:
    """Read options of the solver. A value that is written reads back as the same."""
    options = parse_options(parse_pairs([line for line in _lines(data) if line]))
    texts = {}
    for name in list_option_names():
        group, _, option = name.partition(".")
        texts[name] = format_value(getattr(getattr(options, group), option))
    again = parse_options(texts)
    for name in list_option_names():
        group, _, option = name.partition(".")
        if repr(getattr(getattr(again, group), option)) != repr(getattr(getattr(options, group), option)):
            raise WrongAnswerError(f"the option {name} is written as {texts[name]!r} and read back as another value")


def check_alerts(data: bytes, folder: Path) -> None:
    """Read alerts. No program starts, and no message is sent."""
    for line in _lines(data):
        alert = parse_alerts([line])[0]
        alert.rule(RUN, {"event": "smooth", "level": 0, "loss": 1.0, "step": 1})


LEDGER = SimpleNamespace(seconds={(0, "smooth"): 1.0, (0, "load"): 1.0}, samples={0: 1})
RUN: Any = SimpleNamespace(steps=1, refused=0, ledger=LEDGER)  # a run as rules see it


@cache
def list_words() -> list[str]:
    """Return the spellings of options that only choose how, and neither name files nor modules."""
    flags = [
        flag for kind in (CoarsenOptions, TrainOptions) for _, flag in list_flags(kind) if flag.name not in EXCLUDED
    ]
    return sorted(
        {flag.typed for flag in flags} | {"--samples", "--json", "--level", "--axis", "--help", "--options", "-x"}
    )


@cache
def build_command() -> Any:
    """Return the command line, built once."""
    return typer.main.get_command(app)


def check_command_line(data: bytes, folder: Path) -> None:
    """Run a command on a file that is not there. It ends with a documented exit code, without a traceback."""
    first, *rest = _lines(data)
    command = COMMANDS[len(first) % len(COMMANDS)]
    words = [command, "missing.pt" if command != "train" else "missing", *(_spell(word) for word in rest)]
    here = Path.cwd()
    try:
        os.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = build_command().main(words, prog_name="netgraph", standalone_mode=False)
    except NetgraphError as error:
        code = error.exit_code
    except typer.TyperException as error:
        sentence = explain_usage_error(error, words)
        if "\n" in sentence.strip():
            raise WrongAnswerError("wrong usage is explained by more than one line") from None
        return
    finally:
        os.chdir(here)
    if code not in (None, 0, 1, 2, 3, 4) or "Traceback" in err.getvalue() + out.getvalue():
        raise WrongAnswerError(f"the command ended with {code!r}")


def _spell(line: str) -> str:
    """Return ``NUMBER=VALUE`` as an option of the list with a value, so that no input can name a file to write."""
    number, _, value = line.partition("=")
    words = list_words()
    word = words[int(number) % len(words)] if re.fullmatch("[0-9]{1,3}", number) else words[len(number) % len(words)]
    return f"{word}={value}" if value else word


def _encode(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


def list_command_lines() -> list[bytes]:
    """Return one option with a value for each option of the list."""
    return _encode(
        *("x" * i for i in range(len(COMMANDS))),
        *(f"{'x' * (i % len(COMMANDS))}\n{i}=0.5" for i in range(0, len(list_words()), 7)),
    )


WORDS = (
    *NUMBERS,
    "channels",
    "space",
    "depth",
    "units",
    "parameters",
    "flops",
    "error",
    "gap:",
    "ratio ",
    "gap ",
    "budget ",
    "directions ",
    "axis ",
    "fix ",
    "numbers ",
    "fc1=",
)
RULES = (
    "plateau",
    "divergence",
    "nonfinite",
    "rejected",
    "throughput",
    "memory",
    "patience",
    "factor",
    "share",
    "gib",
    "times",
    "window",
    "drop",
    "raise",
    "stop",
    "warn",
    "command=",
    "notify=",
    "true",
    "json://h",
)
TARGETS = [
    Target("inputs", check_inputs, lambda: _encode("2x3", "a=2x3:int64\nb=1:bool", "2x3\n1x2"), make_word_mutator((*NUMBERS, "x", ":int64", ":bool", "float16", "a", "ids"), "x:=\n")),
    Target("literal", check_literal, lambda: _encode("[1, {'a': None}]", "(1.5, -2j)", "text", "{1, 2}", "b'x'"), make_word_mutator((*NUMBERS, "None", "True", "'", '"', "b''", "j", "set()", "\\N{", "\\ud800", "\0", "é"), "[]{}(),:+-\"' \t\n")),
    Target("values", check_values, lambda: _encode("ratio 0.5", "gap gap:0.05", "budget parameters=0.5", "directions channels+space,depth", "axis fc1=0.25", "fix fc1=0,5", "numbers 16,8"), make_word_mutator(WORDS, "=,+: \n")),
    Target("solver_options", check_solver_options, lambda: _encode("gate.search=1,0.5\nlevel.1.pre=7", "tau.kind=whole", *(f"{name}=1" for name in ("smoothing.pre", "gate.gap"))), make_word_mutator((*NUMBERS, *list_option_names(), "level.1.", "level.0.lr", "none", "true", "whole", "lr"), "=.,\n")),
    Target("alerts", check_alerts, lambda: _encode("divergence:raise", "nonfinite:notify=json://localhost", "plateau(patience=20):stop", "memory(share=0.5):warn"), make_word_mutator((*NUMBERS, *RULES), "(),=:[]{}* \n")),
    Target("command_line", check_command_line, list_command_lines, make_word_mutator((*NUMBERS, "hem", "auto", "channels", "space,depth", "adam", "v", "cosine", "=", "é", "\ud800".encode("utf-8", "replace").decode(), "\x1b[31m"), "=\n")),
]  # fmt: skip
