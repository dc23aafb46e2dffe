"""The errors netgraph raises: one sentence that says what was asked, what was found, and what to do."""


class NetgraphError(ValueError):
    """Anything that a user can mend; the command line prints it and exits with ``exit_code``."""

    exit_code = 1


class LoadError(NetgraphError):
    """A file or an architecture that cannot be opened as asked."""


class UntrustedError(LoadError):
    """Opening the file would run code that came with it, and nobody said that may be."""


class DataError(NetgraphError):
    """A data set or calibration data that is missing, damaged, or does not fit the network."""


class TraceError(NetgraphError):
    """The network's computation cannot be followed; names the operator and its place."""


class AggregatesError(NetgraphError):
    """A coarsener returned something that is no partition of the units."""


class PluginError(NetgraphError):
    """No plug-in of that name, or one that fails to import."""


class OwnClassError(NetgraphError):
    """The network's own class cannot hold the coarse network, or was not proven to compute what it computes."""


class NothingToMergeError(NetgraphError):
    """Every axis of the network is kept, so that a coarse network would be the network itself."""

    exit_code = 3


class AlertError(NetgraphError):
    """A rule that watches a run, and was told to raise, has spoken."""


def describe_error(error: BaseException) -> str:
    """Return the kind of somebody else's error and its first line, for a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # some put what matters on the second line
    return f"{type(error).__name__}: {first[:200]}".removesuffix(": ")
