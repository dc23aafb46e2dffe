"""Exceptions that netgraph raises.

A message says what was asked, what was found and what to do. The command line prints it and exits with ``exit_code``.
"""

from netgraph.utils.text import format_message


class NetgraphError(ValueError):
    """Base class of all errors that a user can correct.

    Control characters in its message are escaped. The middle of a very long message is left out.

    Parameters
    ----------
    *args : object
        The message.

    Examples
    --------
    >>> import netgraph as ng
    >>> try:
    ...     ng.load_model("missing.pt")
    ... except ng.NetgraphError as error:
    ...     print(error)
    missing.pt does not exist. Give a .pt, .pth, .safetensors or .pt2 file, or a name like torchvision:resnet50.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(format_message(arg) if isinstance(arg, str) else arg for arg in args))


class LoadError(NetgraphError):
    """A file or an architecture cannot be opened as asked."""


class UntrustedError(LoadError):
    """Opening a file would run code that came with it, and this was not allowed."""


class DataError(NetgraphError):
    """A data set or calibration data is missing, damaged, or does not fit the network."""


class TraceError(NetgraphError):
    """The computation of a network cannot be followed. The message names the operator and its place."""


class GuardError(TraceError):
    """An input would take a recorded network another way than the example of its recording did."""


class AggregatesError(NetgraphError):
    """A coarsener returned an array that is not a partition of the units."""


class PluginError(NetgraphError):
    """A plug-in does not exist, its import fails, or it does not do what a plug-in of its kind does."""


class OwnClassError(NetgraphError):
    """The class of a network cannot hold the coarse network, or equality of their outputs was not proven."""


class NothingToMergeError(NetgraphError):
    """No coarser level can be built. The message gives the reason."""

    exit_code = 3


class FileDiffersError(NetgraphError):
    """A file for a runtime answers otherwise than the network that it was made of. It is not left behind."""

    exit_code = 4


class AlertError(NetgraphError):
    """An alert rule of a run fired, and its action is to raise."""


class LoadWarning(UserWarning):
    """The choice that was made while a network was opened, where a file leaves one. Control characters are escaped."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(format_message(arg) if isinstance(arg, str) else arg for arg in args))


def describe_error(error: BaseException) -> str:
    """Return the type of an error of another library and its first line.

    The second line is added if the first ends with a colon, since some libraries state the reason there.
    """
    try:
        text = str(error)
    except Exception:  # the error of a stranger may have no words, and it must not hide where it was raised
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # some libraries put the reason on the second line
    return f"{type(error).__name__}: {first[:200]}".removesuffix(": ")


def describe_root(error: BaseException) -> str:
    """Return the type and the first line of the error that was the first of a chain, such as a refused connection.

    Errors of requests and urllib3 have the earlier one among their arguments, or as their reason.
    """
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        earlier = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
        error = next((one for one in earlier if isinstance(one, BaseException)), error)
    return describe_error(error)
