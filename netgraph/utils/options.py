"""An option is written once, as a field of a frozen dataclass: name, type, default, help text and check.

`declare_option` makes such a field. Python functions read its value. The command line builds its own option from the
same field (`netgraph.cli.options.command_options`), and docstrings take their text from it (`document_options`).
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar, cast, get_type_hints

Value = TypeVar("Value")
Kind = TypeVar("Kind")
# check(value, options) raises NetgraphError. ``options`` is the whole object, for options that depend on one another.
Check = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Flag:
    """One option of the command line.

    Parameters
    ----------
    name : str
        Name of the parameter: ``axis_ratio`` is typed as ``--axis-ratio``. An empty name takes that of the field.
    help : str
        One or two sentences.
    type : type
        Type that Typer converts the text to. None takes the annotation of the field.
    default : object
    metavar : str, optional
        Placeholder of the value in the help.
    words : sequence of str
        Words that the shell completes.
    plugins : str, optional
        Group of entry points whose names the shell completes.
    parse : callable ``(text) -> value``, optional
        Reads one typed text in place of Typer's own conversion.
    minimum : int, optional
    check : callable ``(value, None) -> None``, optional
        Check that runs while the command line is read, so that a mistake is wrong usage (exit code 2).
    """

    name: str = ""
    help: str = ""
    type: Any = None
    default: Any = None
    metavar: str | None = None
    words: Sequence[str] = ()
    plugins: str | None = None
    parse: Callable[[str], Any] | None = None
    minimum: int | None = None
    check: Check | None = None

    @property
    def typed(self) -> str:
        """The option as a user types it."""
        return "--" + self.name.strip("_").replace("_", "-")


@dataclass(frozen=True)
class OptionInfo:
    """Metadata of an option, in addition to the name, type and default of its field.

    Parameters
    ----------
    help : str
    doc : str
        Text of the docstring, where Python has more to say than the help.
    check : callable, optional
    flags : tuple of Flag
        Usually one.
    join : callable, optional
        Makes the value of the field from the values of its flags, given in their order.
    plain : callable ``(options) -> data``, optional
        Makes the value that is written to files. By default it is the value itself.
    saved : str
        ``always`` written to files, or only when it is ``set``, or ``never``.
    """

    help: str
    doc: str = ""
    check: Check | None = None
    flags: tuple[Flag, ...] = ()
    join: Callable[..., Any] | None = None
    plain: Callable[[Any], Any] | None = None
    saved: str = "set"


@dataclass(frozen=True)
class OptionGroup:
    """A field that holds another options object. Some fields of that object are options here too.

    Parameters
    ----------
    kind : type
    names : tuple of str
        Fields that are offered, in the order of the help.
    flags : dict of str to Flag
        By field, the flag that takes the place of the field's own.
    """

    kind: type
    names: tuple[str, ...]
    flags: Mapping[str, Flag] = field(default_factory=dict)


def declare_option(
    default: Value,
    *,
    help: str,
    doc: str = "",
    check: Check | None = None,
    check_early: bool = False,
    join: Callable[..., Any] | None = None,
    plain: Callable[[Any], Any] | None = None,
    saved: str = "set",
    also: Sequence[Flag] = (),
    typed_default: Any = ...,
    **flag: Any,
) -> Value:
    """Return a dataclass field for an option.

    Parameters
    ----------
    default : object
        Default in Python.
    help : str
        One or two sentences for the help of the command line.
    doc, check, join, plain, saved
        As in `OptionInfo`.
    check_early : bool
        Run the check while the command line is read, so that a mistake is wrong usage (exit code 2).
    also : sequence of Flag
        Further flags that the value is joined from.
    typed_default : object
        Default on the command line, by default the same.
    **flag
        Fields of the `Flag`: ``name``, ``type``, ``metavar``, ``words`` and so on.
    """
    typed = default if typed_default is ... else typed_default
    first = Flag(help=help, default=typed, check=check if check_early else None, **flag)
    info = OptionInfo(help, doc or help, check, (first, *also), join, plain, saved)
    return field(default=default, metadata={"option": info})


def reuse_option(kind: type, name: str) -> Any:
    """Return a field with the option that another class has under this name."""
    other = {f.name: f for f in fields(kind)}[name]
    flags = tuple(flag for field_, flag in list_flags(kind) if field_ == name)
    info = replace(get_info(other), flags=flags)
    return field(default=other.default, metadata={"option": info})


def declare_group(kind: type[Value], names: Sequence[str], flags: Mapping[str, Flag] = MappingProxyType({})) -> Value:
    """Return a dataclass field that holds another options object."""
    group = OptionGroup(kind, tuple(names), dict(flags))
    return cast("Value", field(default_factory=lambda: _build_group(group, {}), metadata={"group": group}))


def get_info(option_field: Field[Any]) -> OptionInfo:
    """Return the metadata of an option from its field."""
    info: OptionInfo = option_field.metadata["option"]
    return info


def list_options(kind: type) -> Iterator[tuple[Field[Any], OptionInfo]]:
    """Yield the fields of a class that are options."""
    for option_field in fields(kind):
        if "option" in option_field.metadata:
            yield option_field, get_info(option_field)


def list_flags(kind: type) -> list[tuple[str, Flag]]:
    """Return the flags of a class in the order of its fields, each with the name of its field."""
    hints, flags = get_type_hints(kind), list[tuple[str, Flag]]()
    for option_field in fields(kind):
        group = option_field.metadata.get("group")
        if group is not None:
            flags += [(option_field.name, flag) for _, flag in _list_group_flags(group)]
        elif "option" in option_field.metadata:
            for flag in get_info(option_field).flags:
                named = replace(flag, name=flag.name or option_field.name)
                flags.append((option_field.name, replace(named, type=named.type or hints[option_field.name])))
    return flags


def _list_group_flags(group: OptionGroup) -> list[tuple[str, Flag]]:
    """Return the flags that a group offers, each with the name of its field."""
    by_field: dict[str, list[Flag]] = {}
    for name, flag in list_flags(group.kind):
        by_field.setdefault(name, []).append(flag)
    by_field |= {name: [flag] for name, flag in group.flags.items()}
    return [(name, flag) for name in group.names for flag in by_field[name]]


def from_flags(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Return an options object from the values of its flags. A flag without a value has its default.

    Raises
    ------
    NetgraphError
        A typed value cannot be read.
    """
    made: dict[str, Any] = {}
    flags = list_flags(kind)
    for option_field in fields(kind):  # type: ignore[arg-type]
        group = option_field.metadata.get("group")
        if group is not None:
            made[option_field.name] = _build_group(group, values)
        elif "option" in option_field.metadata:
            field_flags = [flag for name, flag in flags if name == option_field.name]
            made[option_field.name] = _join_flags(get_info(option_field), field_flags, values)
    return kind(**made)


def _join_flags(info: OptionInfo, flags: Sequence[Flag], values: Mapping[str, Any]) -> Any:
    """Return the value of a field from the values of its flags."""
    typed = [values.get(flag.name, flag.default) for flag in flags]
    return typed[0] if info.join is None else info.join(*typed)


def _build_group(group: OptionGroup, values: Mapping[str, Any]) -> Any:
    """Return the object of a group from the values of its flags."""
    infos = {option_field.name: info for option_field, info in list_options(group.kind)}
    flags = _list_group_flags(group)
    made = {}
    for name in group.names:
        field_flags = [flag for field_name, flag in flags if field_name == name]
        info = replace(infos[name], join=None) if name in group.flags else infos[name]
        made[name] = _join_flags(info, field_flags, values)
    return group.kind(**made)


def read_flag_values(options: Any) -> dict[str, Any]:
    """Return the value of every option under the name of its flag, those of groups included."""
    values: dict[str, Any] = {}
    for option_field in fields(options):
        value = getattr(options, option_field.name)
        group = option_field.metadata.get("group")
        if group is not None:
            values |= {flag.name: getattr(value, name) for name, flag in _list_group_flags(group)}
        elif "option" in option_field.metadata:
            flags = get_info(option_field).flags
            values[(flags and flags[0].name) or option_field.name] = value
    return values


def check_options(options: Any) -> None:
    """Run the check of every field.

    Raises
    ------
    NetgraphError
    """
    for option_field, info in list_options(type(options)):
        if info.check is not None:
            info.check(getattr(options, option_field.name), options)


def describe_options(kind: type, *, indent: str = "    ") -> str:
    """Return the options of a class as entries of a numpydoc section."""
    lines = []
    for option_field in fields(kind):
        shown = str(option_field.type).replace("Callable[..., Any]", "callable").replace(" | ", " or ")
        if "group" in option_field.metadata:
            names = ", ".join(option_field.metadata["group"].names)
            lines += [f"{indent}{option_field.name} : {shown}", f"{indent}    Options {names}."]
        elif "option" in option_field.metadata:
            lines.append(f"{indent}{option_field.name} : {shown}, default={option_field.default!r}")
            lines += textwrap.wrap(
                get_info(option_field).doc, 110, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    "
            )
    return "\n".join(lines)


def document_options(kind: type[Kind]) -> type[Kind]:
    """Insert the options of a class into its docstring, in place of the line ``**options``."""
    if kind.__doc__:
        kind.__doc__ = kind.__doc__.replace("    **options", describe_options(kind))
    return kind


def show_options(kind: type) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Give a function that takes the options of a class as ``**keywords`` their names, for editors and `help`.

    Its docstring takes their text in place of the line ``**keywords``.
    """

    def decorate(function: Callable[..., Value]) -> Callable[..., Value]:
        own = inspect.signature(function)
        kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shown = [*kept, *inspect.signature(kind).parameters.values()]
        function.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]  # editors read it
        if function.__doc__:
            function.__doc__ = function.__doc__.replace("    **keywords", describe_options(kind))
        return function

    return decorate


def replace_options(options: Kind, keywords: Mapping[str, Any], function: str) -> Kind:
    """Return an options object with some options replaced by the keywords of a function.

    Raises
    ------
    TypeError
        A keyword is no option, as Python says it of any function.
    """
    names = {option.name for option in fields(options)}  # type: ignore[arg-type]  # options are dataclasses
    unknown = [name for name in keywords if name not in names]
    if unknown:
        raise TypeError(
            f"{function}() got an unexpected keyword argument {unknown[0]!r}. Its options are {', '.join(sorted(names))}."
        )
    return replace(options, **keywords)  # type: ignore[type-var]  # options are dataclasses
