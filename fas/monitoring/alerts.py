"""Alerts: what happens where a rule that watches a run speaks (`netgraph.fas.monitoring.alert_rules`).

An alert acts when its rule begins to speak, and again only after all was well in between. As text, for the command line:
``divergence:raise``, ``plateau(patience=20):stop``, ``rejected(times=5):command=notify-send {message}``.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netgraph.errors import AlertError, NetgraphError
from netgraph.fas.monitoring.alert_rules import RULES, Rule
from netgraph.fas.solver.run import Run

Action = Callable[[Run, str, str], None]
ACTIONS = ("raise", "stop", "warn", "command=PROGRAM ARGUMENTS", "notify=URL")
WAIT = 60.0  # seconds that a command may take
logger = logging.getLogger("netgraph.alert")


class Alert:
    """A callback that acts where a rule speaks, and writes a record ``alert`` into the run's history.

    Parameters
    ----------
    rule : callable ``(run, record) -> str or None``
    action : callable ``(run, name, message)``
        Such as `log_warning`, `stop_run`, `raise_alert`, or what `make_command_action` and `make_notify_action` return.
    name : str
        What messages call the rule.
    """

    def __init__(self, rule: Rule, action: Action, name: str) -> None:
        self.rule, self.action, self.name, self.on = rule, action, name, False

    def __call__(self, run: Run, record: Mapping[str, Any]) -> None:
        """Ask the rule, and act where it begins to speak."""
        if record["event"] in ("alert", "finish", "failed"):
            return
        words = self.rule(run, record)
        if words is None:
            return
        begins, self.on = bool(words) and not self.on, bool(words)
        if begins:
            run.emit_event("alert", record["level"], rule=self.name, message=words)
            self.action(run, self.name, words)


def parse_alerts(texts: Sequence[str]) -> list[Alert]:
    """Return callbacks from their text form, ``RULE:ACTION`` or ``RULE(option=value, ...):ACTION``.

    Raises
    ------
    NetgraphError
        No rule, option or action has that name, a program does not exist, or apprise is missing or knows no such URL.
    """
    return [_parse_alert(text) for text in texts]


def _parse_alert(text: str) -> Alert:
    rule, action = _split_alert(text)
    made, name = _parse_rule(rule, text)
    verb, _, rest = action.partition("=")
    plain: dict[str, Action] = {"raise": raise_alert, "stop": stop_run, "warn": log_warning}
    if verb in plain and not rest:
        return Alert(made, plain[verb], name)
    if verb == "command" and rest:
        return Alert(made, make_command_action(shlex.split(rest)), name)
    if verb == "notify" and rest:
        return Alert(made, make_notify_action(rest), name)
    raise NetgraphError(
        f"alert {text!r} says {action!r}; an alert is RULE:ACTION, the action one of {', '.join(ACTIONS)}"
    )


def _split_alert(text: str) -> tuple[str, str]:
    """Part a rule from its action at the first colon outside brackets."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ":" and depth == 0:
            return text[:i].strip(), text[i + 1 :].strip()
    return text.strip(), ""


def _parse_rule(text: str, whole: str) -> tuple[Rule, str]:
    """Read ``name`` or ``name(option=value, ...)``, whose values are numbers."""
    try:
        found = ast.parse(text, mode="eval").body
        call = found if isinstance(found, ast.Call) else ast.Call(func=found, args=[], keywords=[])
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise NetgraphError(f"alert {whole!r} has no rule that can be read; write plateau(patience=20):warn") from None
    if name not in RULES:
        raise NetgraphError(f"alert {whole!r}: no rule is called {name!r}; there are {', '.join(RULES)}")
    known = inspect.signature(RULES[name]).parameters
    wrong = [k for k, v in options.items() if k not in known or not isinstance(v, (int, float))]
    if wrong or call.args:
        raise NetgraphError(f"alert {whole!r}: the options of {name} are numbers by name, {', '.join(known)}")
    return RULES[name](**options), name


def log_warning(run: Run, name: str, message: str) -> None:
    """Log a warning."""
    logger.warning("%s at step %d: %s", name, run.steps, message)


def stop_run(run: Run, name: str, message: str) -> None:
    """End the run after the current step."""
    log_warning(run, name, message)
    run.stop(f"the alert {name} at step {run.steps}: {message}")


def raise_alert(run: Run, name: str, message: str) -> None:
    """Raise.

    Raises
    ------
    AlertError
        Always.
    """
    raise AlertError(
        f"{name} at step {run.steps}: {message}; look at the last checkpoint, or give the rule another action"
    )


def make_command_action(arguments: Sequence[str]) -> Action:
    """Return an action that runs a program beside the training, without a shell.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments; ``{rule}``, ``{message}`` and ``{step}`` stand for what happened, and never become
        a second argument.

    Raises
    ------
    NetgraphError
        There is no such program.
    """
    if not arguments or shutil.which(arguments[0]) is None:
        raise NetgraphError(
            f"an alert is to run {' '.join(arguments) or 'nothing'}, and there is no such program; give its path"
        )

    def action(run: Run, name: str, message: str) -> None:
        words = {"rule": name, "message": message, "step": str(run.steps)}
        log_warning(run, name, message)
        filled = [_fill_placeholders(part, words) for part in arguments]
        threading.Thread(target=_run_command, args=(filled,), name=f"alert {name}").start()

    return action


def _fill_placeholders(part: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(rule|message|step)\}", lambda found: words[found[1]], part)


def _run_command(arguments: list[str]) -> None:
    """Tell of a program that failed: training does not wait for it."""
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("the command of an alert failed: %s", error)
        return
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        logger.warning("the command of an alert, %s, ended with %d: %s", arguments[0], done.returncode, said)


def make_notify_action(url: str) -> Action:
    """Return an action that sends a message through apprise, beside the training.

    Parameters
    ----------
    url : str
        Such as ``mailto://...``, ``slack://...`` or ``json://localhost``; apprise's own page lists all.

    Raises
    ------
    NetgraphError
        apprise is not installed, or knows no such URL.
    """
    try:
        import apprise
    except ImportError:
        raise NetgraphError("notify needs apprise; install netgraph-coarsening[alerts]") from None
    box = apprise.Apprise()
    if not box.add(url):
        raise NetgraphError(
            f"apprise knows no service for {url.partition(':')[0]!r}; give a URL that it lists, such as json://localhost"
        )

    def send(title: str, message: str) -> None:
        if not box.notify(body=message, title=title):
            logger.warning("the message of an alert was not delivered to %s", url.partition(":")[0])

    def action(run: Run, name: str, message: str) -> None:
        log_warning(run, name, message)
        threading.Thread(
            target=send, args=(f"netgraph: {name} at step {run.steps}", message), name=f"alert {name}"
        ).start()

    return action
