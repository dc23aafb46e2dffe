"""States that ``state_dict`` returned, given back to ``load_state_dict``. One of another object is told in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from netgraph.errors import NetgraphError, describe_error


@contextlib.contextmanager
def reading_state(owner: str) -> Iterator[None]:
    """Raise `NetgraphError` where a state lacks an entry, or has one of another kind.

    Parameters
    ----------
    owner : str
        What the state should belong to, for the message.
    """
    try:
        yield
    except NetgraphError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise NetgraphError(
            f"the state is not one of {owner} ({describe_error(error)}). Give what state_dict() of such an object returned."
        ) from error
