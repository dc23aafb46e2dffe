"""Alerts: actions on the messages of rules that watch a run (`netgraph.fas.monitoring.alert_rules`).

An alert acts when its rule begins to report a problem, and acts again only after all was well in between. The command line
takes text: ``divergence:raise``, ``plateau(patience=20):stop``, ``rejected(times=5):command=notify-send {message}``.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netgraph.environment.optional_packages import import_package
from netgraph.errors import AlertError, NetgraphError
from netgraph.fas.monitoring.alert_commands import start_command, start_message
from netgraph.fas.monitoring.alert_rules import RULES, Rule
from netgraph.fas.solver.run import Run
from netgraph.utils.text import parse_expression, shorten

Action = Callable[[Run, str, str], None]
ACTIONS = ("raise", "stop", "warn", "command=PROGRAM ARGUMENTS", "notify=URL")
logger = logging.getLogger("netgraph.alert")


class Alert:
    """A callback that acts when a rule reports a problem, and writes a record ``alert`` into the run's history.

    Parameters
    ----------
    rule : callable ``(run, record) -> str or None``
        A message, ``""`` for all well, or None for nothing to say.
    action : callable ``(run, name, message)``
        Such as the results of `make_command_action` and `make_notify_action`.
    name : str
        Name of the rule in messages.

    Examples
    --------
    >>> from netgraph.fas import Alert, plateau
    >>> def stop(run, name, message):
    ...     run.stop(f"{name}: {message}")
    >>> alert = Alert(plateau(patience=10), stop, "plateau")  # a callback for FAS.solve(callbacks=[...])
    >>> alert.name
    'plateau'
    """

    def __init__(self, rule: Rule, action: Action, name: str) -> None:
        self.rule, self.action, self.name, self.active = rule, action, name, False

    def __call__(self, run: Run, record: Mapping[str, Any]) -> None:
        """Ask the rule, and act if it begins to report a problem.

        Parameters
        ----------
        run : Run
            The run.
        record : mapping
            Record of an event.
        """
        if record["event"] in ("alert", "finish", "failed"):
            return
        message = self.rule(run, record)
        if message is None:
            return
        begins, self.active = bool(message) and not self.active, bool(message)
        if begins:
            run.emit_event("alert", record["level"], rule=self.name, message=message)
            self.action(run, self.name, message)


def parse_alerts(texts: Sequence[str]) -> list[Alert]:
    """Parse alerts from their text form, ``RULE:ACTION`` or ``RULE(option=value, ...):ACTION``.

    Parameters
    ----------
    texts : sequence of str
        One text for each alert. Actions are ``raise``, ``stop``, ``warn``, ``command=PROGRAM ARGUMENTS`` and ``notify=URL``.

    Returns
    -------
    list of Alert
        Callbacks for `FAS.solve`.

    Raises
    ------
    NetgraphError
        A rule, an option, an action or a program does not exist, or apprise is missing or does not know the URL.

    Examples
    --------
    >>> from netgraph.fas import parse_alerts
    >>> [alert.name for alert in parse_alerts(["divergence:raise", "plateau(patience=20):stop"])]
    ['divergence', 'plateau']
    """
    return [_parse_alert(text) for text in texts]


def _parse_alert(text: str) -> Alert:
    """Parse one alert."""
    rule_text, action = _split_alert(text)
    rule, name = _parse_rule(rule_text, text)
    verb, _, rest = action.partition("=")
    plain: dict[str, Action] = {"raise": raise_alert, "stop": stop_run, "warn": log_warning}
    if verb in plain and not rest:
        return Alert(rule, plain[verb], name)
    if verb == "command" and rest:
        return Alert(rule, make_command_action(_split_command(rest, text)), name)
    if verb == "notify" and rest:
        return Alert(rule, make_notify_action(rest), name)
    raise NetgraphError(
        f"alert {text!r} has no action {action!r}. An alert is RULE:ACTION, with one of the actions {', '.join(ACTIONS)}."
    )


def _split_command(command: str, alert: str) -> list[str]:
    """Split a command into words, as a shell does."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise NetgraphError(
            f"alert {shorten(alert, 80)!r} has a command that cannot be split into words ({error}). Close its quotation."
        ) from None


def _split_alert(text: str) -> tuple[str, str]:
    """Split an alert into rule and action, at the first colon outside parentheses."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ":" and depth == 0:
            return text[:i].strip(), text[i + 1 :].strip()
    return text.strip(), ""


def _parse_rule(text: str, alert: str) -> tuple[Rule, str]:
    """Parse ``name`` or ``name(option=value, ...)`` with numbers as values. Return the rule and its name."""
    try:
        tree = parse_expression(text)
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError):
        raise NetgraphError(
            f"alert {shorten(alert, 80)!r} has a rule that cannot be read. Write plateau(patience=20):warn."
        ) from None
    if name not in RULES:
        raise NetgraphError(f"alert {alert!r}: no rule is called {name!r}. Choose one of {', '.join(RULES)}.")
    known = inspect.signature(RULES[name]).parameters
    wrong = [k for k, v in options.items() if k not in known or not isinstance(v, (int, float))]
    if wrong or call.args:
        raise NetgraphError(f"alert {alert!r}: give options of {name} as numbers by name, {', '.join(known)}.")
    return RULES[name](**options), name


def log_warning(run: Run, name: str, message: str) -> None:
    """Log a warning."""
    logger.warning("%s at step %d: %s", name, run.steps, message)


def stop_run(run: Run, name: str, message: str) -> None:
    """Stop the run after the current step."""
    log_warning(run, name, message)
    run.stop(f"the alert {name} at step {run.steps}: {message}")


def raise_alert(run: Run, name: str, message: str) -> None:
    """End the run with an error.

    Raises
    ------
    AlertError
        Always.
    """
    raise AlertError(
        f"{name} at step {run.steps}: {message}. Look at the last checkpoint, or give the rule another action."
    )


def make_command_action(arguments: Sequence[str]) -> Action:
    """Build an action that runs a program, without a shell and without waiting for it. It has 60 seconds.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments. ``{rule}``, ``{message}`` and ``{step}`` are replaced, and each stays one argument.

    Returns
    -------
    callable ``(run, name, message)``
        The action, for `Alert`.

    Raises
    ------
    NetgraphError
        The program does not exist.

    Examples
    --------
    >>> from netgraph.fas import Alert, make_command_action, rejected
    >>> alert = Alert(rejected(times=5), make_command_action(["echo", "{message}"]), "rejected")
    >>> alert.name
    'rejected'
    """
    if not arguments or shutil.which(arguments[0]) is None:
        raise NetgraphError(
            f"an alert should run {' '.join(arguments) or 'nothing'}, and there is no such program. Give its path."
        )

    def action(run: Run, name: str, message: str) -> None:
        values = {"rule": name, "message": message, "step": str(run.steps)}
        log_warning(run, name, message)
        command = [_fill_placeholders(part, values) for part in arguments]
        start_command(command, name)

    return action


def _fill_placeholders(part: str, values: Mapping[str, str]) -> str:
    """Return an argument with its placeholders replaced in one pass, so a message may contain braces."""
    return re.sub(r"\{(rule|message|step)\}", lambda match: values[match[1]], part)


def make_notify_action(url: str) -> Action:
    """Build an action that sends a message through apprise, without waiting for it. It has 60 seconds.

    Parameters
    ----------
    url : str
        URL of a service, such as ``mailto://...``, ``slack://...`` or ``json://localhost``. The page of apprise lists all.

    Returns
    -------
    callable ``(run, name, message)``
        The action, for `Alert`.

    Raises
    ------
    NetgraphError
        apprise is not installed, or does not know the URL.

    Examples
    --------
    >>> from netgraph.fas import Alert, make_notify_action, nonfinite
    >>> Alert(nonfinite(), make_notify_action("json://localhost"), "nonfinite").name
    'nonfinite'
    """
    apprise = import_package("apprise", "notify")
    box = apprise.Apprise()
    if not box.add(url):
        raise NetgraphError(
            f"apprise knows no service for {url.partition(':')[0]!r}. Give a URL that it lists, such as json://localhost."
        )

    service = url.partition(":")[0]

    def action(run: Run, name: str, message: str) -> None:
        log_warning(run, name, message)
        title = f"netgraph: {name} at step {run.steps}"
        start_message(lambda: box.notify(body=message, title=title), service, name)

    return action
