"""Names and values as MLflow takes them. The maker of a file chooses the names in it, so control characters are escaped here too."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Any

from netgraph.utils.text import escape_controls

LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME = 250, 6000, 5000, 250  # characters
logger = logging.getLogger("netgraph.tracking")


def clean_key(name: str) -> str:
    """Return a name of a parameter, a figure or a tag with the characters that MLflow takes.

    Parameters
    ----------
    name : str
        MLflow reads it as a path, so parts such as ``..`` go too. A longer one is cut and ends in its digest.

    Returns
    -------
    str

    Examples
    --------
    >>> from netgraph.fas.monitoring.mlflow_names import clean_key
    >>> clean_key("valid/top-5 (%)"), clean_key("/../a//b")
    ('valid/top-5 ___', 'a/b')
    """
    parts = re.sub(r"[^\w\-. /:]", "_", name).split("/")
    key = "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
    return key if len(key) <= LONGEST_KEY else _add_digest(key, name)


def clean_value(value: object, limit: int) -> str:
    """Return a value as one line that says so where it was cut.

    Parameters
    ----------
    value : object
    limit : int
        Largest number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> from netgraph.fas.monitoring.mlflow_names import clean_value
    >>> clean_value("two\\nlines", 20), clean_value("a" * 100, 30)
    ('two\\\\nlines', 'aaaaaa… (cut, 100 characters)')
    """
    text = escape_controls(str(value))
    if len(text) <= limit:
        return text
    end = f"… (cut, {len(text)} characters)"
    return text[: limit - len(end)] + end


def clean_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as MLflow takes them, each under a key of its own. Renamed keys and cut values are logged.

    Parameters
    ----------
    params : mapping
        Values by name.

    Returns
    -------
    dict of str to str
    """
    out: dict[str, str] = {}
    for name, value in params.items():
        key = clean_key(name)
        key = _add_digest(key, name) if key in out else key
        out[key] = clean_value(value, LONGEST_PARAM)
        if key != name:
            logger.info("the parameter %.100s is called %s in MLflow, which does not take that name", name, key)
        if len(str(value)) > LONGEST_PARAM:
            logger.warning(
                "the parameter %.100s is cut after %d characters, as MLflow takes no more", name, LONGEST_PARAM
            )
    return out


def _add_digest(key: str, name: str) -> str:
    """Return a key that ends in the digest of the name, and differs from those of other names."""
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{key[: LONGEST_KEY - 9]}_{digest}"
