"""Options of a command, made from the fields of options objects.

A command names the objects that it takes, as in ``def coarsen(..., *, options: CoarsenOptions)``. `with_options`
shows every field to Typer and calls the command with the object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from netgraph.cli.options.completion import complete_plugins, complete_words
from netgraph.errors import NetgraphError
from netgraph.utils.options import Flag, from_flags, list_flags


@dataclass(frozen=True)
class After:
    """Place of a parameter in the help: behind the option of this name."""

    name: str


def make_typer_option(flag: Flag) -> Any:
    """Return a flag as an option of Typer."""
    complete = complete_plugins(flag.plugins, *flag.words) if flag.plugins else complete_words(flag.words)
    return typer.Option(
        flag.typed,
        help=flag.help,
        metavar=flag.metavar,
        min=flag.minimum,
        autocompletion=complete if flag.plugins or flag.words else None,
        parser=None if flag.parse is None else _as_usage(flag.parse),
        callback=None if flag.check is None else _as_callback(flag.check),
    )


def find_typer_option(kind: type, name: str) -> Any:
    """Return one option of a class for a command that takes it alone."""
    return make_typer_option({flag.name: flag for _, flag in list_flags(kind)}[name])


def _as_usage(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that reports a mistake as wrong usage."""

    @wraps(parse)
    def parser(text: str) -> Any:
        try:
            return parse(text)
        except NetgraphError as error:
            raise typer.BadParameter(str(error)) from None

    return parser


def _as_callback(check: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    """Return a check as a callback of Typer. A mistake counts as wrong usage."""

    def callback(value: Any) -> Any:
        _as_usage(lambda typed: check(typed, None))(value)
        return value

    return callback


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that its parameters hold.

    Parameters
    ----------
    command : callable
        A parameter that is a dataclass of options is replaced by its flags, in its place or `After` another option.

    Returns
    -------
    callable
        Takes the flags as keywords, and calls the command with the objects.
    """
    hints = get_type_hints(command, include_extras=True)
    kinds: dict[str, Any] = {
        name: kind for name, hint in hints.items() if is_dataclass(kind := _unwrap_annotated(hint))
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        flags = [flag for _, flag in list_flags(kinds[name])] if name in kinds else []
        group = [_show_flag(flag) for flag in flags] or [_show_parameter(parameter, hints[name])]
        place = _find_place(hints[name], shown)
        shown[place:place] = group

    @wraps(command)
    def call(**values: Any) -> Any:
        taken = {flag.name for kind in kinds.values() for _, flag in list_flags(kind)}
        rest = {name: value for name, value in values.items() if name not in taken}
        return command(**rest, **{name: from_flags(kind, values) for name, kind in kinds.items()})

    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # Typer reads options from here
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return call


def _unwrap_annotated(hint: Any) -> Any:
    """Return the type of an annotation without its marks."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _show_parameter(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    """Return a parameter of a command as Typer sees it."""
    return parameter.replace(annotation=hint, kind=parameter.KEYWORD_ONLY)


def _show_flag(flag: Flag) -> inspect.Parameter:
    """Return a flag as a parameter that Typer sees."""
    annotation = Annotated[flag.type, make_typer_option(flag)]  # type: ignore[name-defined]  # a type of run time
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=flag.default, annotation=annotation)


def _find_place(hint: Any, shown: list[inspect.Parameter]) -> int:
    """Return where a parameter goes: behind the option that its `After` names, else at the end."""
    after = [mark.name for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, After)]
    return 1 + [parameter.name for parameter in shown].index(after[0]) if after else len(shown)
