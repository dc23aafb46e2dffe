"""Names out of files do not steer the terminal, and forge no lines."""

import json
import logging
import sys
import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import netgraph as ng
from netgraph.cli.console.terminal import echo, echo_lines
from netgraph.errors import LoadError, LoadWarning, NetgraphError
from netgraph.fas import log_event, read_run, write_run
from netgraph.fas.ledger import Ledger
from netgraph.fas.solver.solution import Solution
from netgraph.utils.logging import JsonLinesFormatter, SentenceFormatter
from netgraph.utils.text import escape_controls
from tests.support.command_line import run

NAME = "x\x1b]0;TITLE\x07\x9b31m\rnetgraph: all is well\n\u202egnp.\udc80"
HARMFUL = ("\x1b", "\x07", "\x9b", "\r", "\n", "\u202e", "\udc80")


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "L", "Zl", "Zp"])))
def test_escaped_text_is_one_line_that_prints_and_reads_back(text):
    escaped = escape_controls(text)
    assert len(escaped.splitlines()) <= 1
    escaped.encode()
    assert not {unicodedata.category(c) for c in escaped} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    plain = escape_controls(escaped)
    assert plain == escaped


@pytest.mark.parametrize("kind", [NetgraphError, LoadError, LoadWarning])
def test_messages_are_one_line(kind):
    assert not any(c in str(kind(f"unexpected {NAME}")) for c in HARMFUL)
    assert kind("a", 3).args == ("a", 3)


@pytest.mark.parametrize("hidden", ["\u200b", "\ufeff", "\xad", "\u2060", "\U000e0041"], ids=ascii)
def test_two_names_that_look_alike_differ_on_the_terminal(hidden):
    assert escape_controls(f"conv{hidden}1") == f"conv{hidden.encode('unicode_escape').decode()}1"


def test_a_message_with_a_name_of_a_megabyte_is_short_and_says_what_to_do():
    message = str(LoadError(f"unexpected {'n' * 10**6}. Check --arch."))
    assert len(message) < 10_000
    assert message.startswith("unexpected nnn")
    assert message.endswith("nnn. Check --arch.")
    assert "characters left out" in message
    assert str(LoadError(message)) == message
    record = logging.LogRecord("netgraph", logging.WARNING, "f", 1, "skipped %s", ("n" * 10**6,), None)
    assert len(SentenceFormatter().format(record)) < 10_000


def test_the_log_is_one_line_a_record():
    record = logging.LogRecord("netgraph", logging.WARNING, "f", 1, "skipped %s", (NAME,), None)
    assert not any(c in SentenceFormatter().format(record) for c in HARMFUL)


def test_a_traceback_in_the_log_keeps_its_lines_alone():
    try:
        raise ValueError(NAME)
    except ValueError:
        record = logging.LogRecord("netgraph", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    text = SentenceFormatter().format(record)
    assert "Traceback" in text
    assert not any(c in text for c in HARMFUL if c != "\n")


def test_a_line_of_json_is_one_line_that_reads_back():
    record = logging.LogRecord("netgraph", logging.WARNING, "f", 1, "skipped %s", (f"{NAME}\x7f",), None)
    record.event = {"event": "alert", NAME: [NAME, float("nan")]}
    line = JsonLinesFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    document = json.loads(line)
    assert document["message"] == f"skipped {NAME}\x7f"
    assert document["event"] == {"event": "alert", NAME: [NAME, None]}


def test_the_file_of_a_run_holds_no_control_characters_and_reads_back(tmp_path):
    record = {"event": "evaluate", "level": 0, "step": 1, "seconds": 0.1, "flops": 1.0, "figures": {NAME: 0.5}}
    path = write_run({"network": NAME, "history": [record]}, tmp_path)
    lines = path.read_bytes().decode("ascii").splitlines()
    assert all(line.isprintable() for line in lines)
    history = read_run(path)
    assert history.facts["network"] == NAME
    assert history.records == [record]


def test_the_event_log_of_a_run_is_one_line_an_event(capsys, monkeypatch):
    logger = logging.getLogger("netgraph")
    handlers, level = list(logger.handlers), logger.level
    run = SimpleNamespace(total_steps=3)
    place = {"level": 0, "step": 1, "seconds": 0.1, "flops": 1.0}
    records = [
        {"event": "alert", **place, "message": NAME, "rule": NAME},
        {"event": "failed", **place, "error": NAME},
        {"event": "evaluate", **place, "figures": {NAME: 0.5}},
    ]
    try:
        for as_json in (False, True):
            ng.setup_logging(json=as_json, level=logging.DEBUG)
            for record in records:
                log_event(run, record)
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == len(records)
            assert all(line.isprintable() for line in lines)
            assert not as_json or [json.loads(line)["event"] for line in lines] == records
    finally:
        logger.handlers[:], logger.propagate = handlers, True
        logger.setLevel(level)


def test_printed_hierarchies_and_solutions_keep_their_lines():
    hierarchy = ng.build_hierarchy(Odd(), torch.zeros(2, 3))
    first = hierarchy.levels[0]
    first.spec = replace(first.spec, unrecorded={"train": f"no operator\x1b[2J {NAME}"})
    solution = Solution(nn.Linear(1, 1), False, NAME, [{"event": "evaluate", "figures": {NAME: 1.0}}], Ledger())
    for text in (str(hierarchy), repr(hierarchy), str(solution)):
        assert "netgraph: all is well" in text
        assert not any(line.startswith("netgraph:") for line in text.splitlines())
        assert not any(c in text for c in HARMFUL if c != "\n")


def test_tables_keep_their_lines(capsys):
    echo_lines("a\tb\n\x1b[2Jc", err=True)
    assert capsys.readouterr().err == "a\tb\n\\x1b[2Jc\n"
    echo("two\nlines")
    assert capsys.readouterr().out == "two\\nlines\n"


def test_names_of_a_file_reach_neither_stream(tmp_path):
    torch.save({**nn.Linear(3, 2).state_dict(), NAME.replace("\udc80", ""): torch.zeros(1)}, tmp_path / "a.pt")
    options = ("--arch", "torch.nn:Linear", "--arch-arg", "in_features=3", "--arch-arg", "out_features=2")
    code, _, err = run("inspect", tmp_path / "a.pt", *options)
    assert code == 1
    assert r"unexpected x\x1b]0;TITLE\x07" in err
    assert not any(c in err.strip() for c in HARMFUL)


ODD = "a\x1b]0;TITLE\x07\nb\x7f\u200b"


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_module(ODD, nn.Linear(3, 4))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu(self._modules[ODD](x)))


def test_names_of_layers_are_escaped_in_every_table(tmp_path):
    hierarchy = ng.build_hierarchy(Odd(), torch.zeros(2, 3))
    ng.save(hierarchy.levels[1].model, tmp_path / "odd.safetensors")
    for command in (["inspect"], ["verify"], ["coarsen"], ["inspect", "--json"], ["coarsen", "--json"]):
        code, out, err = run(*command[:1], tmp_path / "odd.safetensors", *command[1:])
        assert code == 0, err
        assert not any(c in out + err for c in ("\x1b", "\x07", "\x7f", "\u200b"))
        assert "--json" not in command or repr(ODD)[1:-1] in str(json.loads(out))
        lines = out.splitlines()
        assert not any(line.startswith(("b.weight", "b ")) for line in lines), lines
