"""Alerts on loss sequences in closed form, their actions, and logging."""

import http.server
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from netgraph.errors import AlertError, NetgraphError
from netgraph.fas.ledger import Ledger
from netgraph.fas.monitoring import alert_commands
from netgraph.fas.monitoring.alert_commands import start_command, start_message
from netgraph.fas.monitoring.alert_rules import RULES, divergence, memory, nonfinite, plateau, rejected, throughput
from netgraph.fas.monitoring.alerts import Alert, parse_alerts, raise_alert
from netgraph.fas.monitoring.event_log import log_event
from netgraph.utils import logging as logs


def make_run(**attributes):
    """Return the part of a run that rules read."""
    records = []
    run = SimpleNamespace(steps=0, refused=0, total_steps=100, ledger=Ledger(), told=records, reason="", **attributes)
    run.emit_event = lambda event, level, **more: records.append({"event": event, "level": level, **more})
    run.stop = lambda reason: setattr(run, "reason", reason)
    return run


def smooth(loss, level=0):
    return {"event": "smooth", "level": level, "loss": loss, "lr": 0.1, "step": 0}


def find_first_report(rule, records, run=None):
    """Return the index of the first record that a rule reports."""
    run = run or make_run()
    return next((i for i, record in enumerate(records) if rule(run, record)), None)


def test_divergence_reports_growth_above_the_best_by_the_first_loss():
    losses = [2.0 * 1.1**i for i in range(30)]  # above 2 + 3 * 2 from the first i with 1.1^i > 4
    assert find_first_report(divergence(factor=3.0), map(smooth, losses)) == 15
    assert find_first_report(divergence(factor=1.0), map(smooth, [2.0, 1.0, 0.5, 2.4, 2.6])) == 4
    assert find_first_report(divergence(), (smooth(1 / (1 + i)) for i in range(50))) is None


def test_each_level_is_compared_with_itself():
    mixed = [smooth(1.0, 0), smooth(30.0, 1)] * 10
    assert find_first_report(divergence(), mixed) is None
    assert find_first_report(plateau(patience=10), mixed) is None


def test_a_plateau_begins_when_a_geometric_sequence_falls_less_than_delta():
    # 1 + 2^-i falls by less than 1 % of itself from the step to i = 7 on, and four waits make the rule speak
    records = [smooth(1 + 0.5**i) for i in range(30)]
    waits = [i for i in range(1, 30) if not 1 + 0.5**i < (1 + 0.5 ** (i - 1)) * 0.99]
    assert find_first_report(plateau(patience=4, delta=0.01), records) in range(waits[0], waits[0] + 6)
    assert find_first_report(plateau(patience=4, delta=0.01), (smooth(0.98**i) for i in range(99))) is None
    assert find_first_report(plateau(patience=4), (smooth(1.0) for _ in range(9))) == 4


def test_refused_steps_and_rejected_corrections_are_counted_in_a_row():
    run = make_run()
    rule = nonfinite(times=3)
    for refused, speaks in ((1, False), (2, False), (3, True)):
        run.refused = refused
        assert bool(rule(run, {"event": "refused", "level": 0, "loss": float("nan")})) is speaks
    ups = [{"event": "up", "level": 0, "length": length} for length in (0, 0, 1.0, 0, 0, 0)]
    assert find_first_report(rejected(times=3), ups) == 5


def test_throughput_reports_a_level_that_slows_down():
    run, rule, spoke = make_run(), throughput(drop=0.5, times=2), []
    for seconds in [1.0] * 6 + [1.9] * 3 + [2.1] * 3:
        run.ledger.samples[0] += 100
        run.ledger.seconds[0, "smooth"] += seconds
        spoke.append(bool(rule(run, smooth(1.0))))
    assert spoke == [False] * 10 + [True] * 2


def test_memory_is_compared_with_a_limit():
    assert memory(gib=1e-6)(make_run(), smooth(1.0)).startswith("the run has")
    assert memory(gib=1e6)(make_run(), smooth(1.0)) == ""


def test_an_alert_acts_when_its_rule_begins_to_report():
    run, seen = make_run(), []
    alert = Alert(divergence(), lambda run, name, message: seen.append((name, message)), "divergence")
    for loss in (1.0, 5.0, 6.0, 1.0, 7.0):
        alert(run, smooth(loss))
    assert [message.split(",")[0] for _, message in seen] == ["the loss of level 0 is 5", "the loss of level 0 is 7"]
    assert [record["rule"] for record in run.told] == ["divergence"] * 2


def test_alerts_raise_stop_and_warn(caplog):
    raises, stops, warns = parse_alerts(
        ["divergence:raise", "plateau(patience=2, delta=0.1):stop", "memory(gib=0.000001):warn"]
    )
    run = make_run()
    raises(run, smooth(1.0))
    with pytest.raises(AlertError, match="divergence at step 0: the loss of level 0 is 9, after 1 at best"):
        raises(run, smooth(9.0))
    for _ in range(3):
        stops(run, smooth(1.0))
    assert run.reason.startswith("the alert plateau at step 0")
    warns(run, smooth(1.0))
    assert "memory at step 0: the run has" in caplog.text


def test_a_command_gets_its_arguments_unchanged_and_without_a_shell(tmp_path):
    target = tmp_path / "said.json"
    program = f"import json, sys; json.dump(sys.argv[1:], open({str(target)!r}, 'w'))"
    (alert,) = parse_alerts([f'divergence:command={sys.executable} -c "{program}" {{message}} "{{rule}} at {{step}}"'])
    alert.rule = lambda run, record: "a; rm -rf * $(false) `false` {step}"
    alert(make_run(), smooth(1.0))
    for thread in [t for t in threading.enumerate() if t.name.startswith("alert")]:
        thread.join()
    assert json.loads(target.read_text()) == ["a; rm -rf * $(false) `false` {step}", "divergence at 0"]


def test_a_command_that_fails_is_a_warning(caplog):
    (alert,) = parse_alerts([f"divergence:command={sys.executable} -c 'raise SystemExit(3)'"])
    alert.rule = lambda run, record: "something"
    alert(make_run(), smooth(1.0))
    for thread in [t for t in threading.enumerate() if t.name.startswith("alert")]:
        thread.join()
    assert "ended with 3" in caplog.text


def join_alerts():
    """Wait for what the alerts have started."""
    for thread in threading.enumerate():
        if thread.name.startswith("alert "):
            thread.join(120)
            assert not thread.is_alive()


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(alert_commands, "WAIT", 1.0)
    start_command(["sh", "-c", f"sleep 600 > {pipe} & wait"], "divergence")
    with pipe.open("rb") as end:  # opens when the inner program has started
        assert select.select([end], [], [], 120)[0], "the inner program is alive"
        assert end.read() == b""
    join_alerts()
    assert "the command of an alert, sh, was ended after 1 seconds" in caplog.text


def test_a_program_in_the_background_of_a_command_that_ends_is_not_waited_for(tmp_path, monkeypatch, caplog):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(alert_commands, "WAIT", 100.0)
    start_command(["sh", "-c", f"(echo $$; exec sleep 600) > {pipe} & exit 0"], "divergence")
    with pipe.open("rb") as end:
        group = int(end.readline())
        join_alerts()
        assert not select.select([end], [], [], 0)[0], "it is alive"
        os.killpg(group, signal.SIGKILL)
    assert not caplog.text


def test_a_message_that_hangs_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(alert_commands, "WAIT", 0.2)
    released = threading.Event()
    start_message(lambda: released.wait(300), "json", "divergence")
    join_alerts()
    released.set()
    assert "the message of an alert to json was given up after 0.2 seconds" in caplog.text


@pytest.mark.parametrize(
    ("answer", "text"), [(False, "was not delivered to json"), (None, "was not delivered to json")]
)
def test_a_message_that_is_not_delivered_is_a_warning(answer, text, caplog):
    start_message(lambda: answer, "json", "divergence")
    join_alerts()
    assert text in caplog.text


def test_a_service_that_raises_is_a_warning(caplog):
    start_message(lambda: 1 / 0, "json", "divergence")
    join_alerts()
    assert "the message of an alert to json failed: ZeroDivisionError" in caplog.text


def test_a_message_goes_through_apprise():
    got = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            """Nothing on stderr."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (alert,) = parse_alerts([f"divergence:notify=json://127.0.0.1:{server.server_port}"])
    alert.rule = lambda run, record: "the loss is 9"
    alert(make_run(), smooth(1.0))
    for _ in range(500):
        if got:
            break
        time.sleep(0.01)
    server.shutdown()
    assert (got[0]["title"], got[0]["message"]) == ("netgraph: divergence at step 0", "the loss is 9")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("divergenze:warn", "no rule is called 'divergenze'. Choose one of divergence, plateau"),
        ("divergence", "An alert is RULE:ACTION"),
        ("divergence:shout", "An alert is RULE:ACTION"),
        ("divergence:raise=1", "An alert is RULE:ACTION"),
        ("plateau(20):warn", "give options of plateau as numbers by name, patience, delta"),
        ("plateau(patients=20):warn", "give options of plateau as numbers by name"),
        ("plateau(patience='x'):warn", "give options of plateau as numbers by name"),
        ("plateau(patience=__import__('os')):warn", "has a rule that cannot be read"),
        ("divergence:command=no-such-program now", "there is no such program"),
        ("divergence:notify=nowhere://x", "apprise knows no service for 'nowhere'"),
        ("memory(share=2):warn", "Give a share up to 1"),
    ],
)
def test_mistakes_in_an_alert_are_errors(text, sentence):
    with pytest.raises(NetgraphError) as error:
        parse_alerts([text])
    assert sentence in str(error.value)


def test_every_rule_has_a_text_form():
    assert [alert.name for alert in parse_alerts([f"{name}:raise" for name in RULES])] == list(RULES)
    assert all(alert.action is raise_alert for alert in parse_alerts([f"{name}:raise" for name in RULES]))


@pytest.fixture
def _logger_as_it_was():
    kept = logs.LOGGER.handlers[:], logs.LOGGER.level, logs.LOGGER.propagate
    yield
    logs.LOGGER.handlers[:], logs.LOGGER.level, logs.LOGGER.propagate = kept


@pytest.mark.usefixtures("_logger_as_it_was")
def test_logs_are_sentences_or_one_json_object_a_line(capsys):
    logs.setup_logging()
    logs.setup_logging()  # a second time changes nothing
    logging.getLogger("netgraph.run").info("hello")
    logging.getLogger("netgraph.run").warning("mind")
    assert capsys.readouterr().err == "netgraph: hello\nnetgraph: warning: mind\n"
    logs.setup_logging(json=True)
    log_event(make_run(), {"event": "evaluate", "level": 0, "step": 3, "figures": {"loss": 0.5, "none": float("nan")}})
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("netgraph.run").exception("broken")
    told, broken = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert told["message"] == "step 3 of 100, level 0: loss 0.5, none nan"
    assert told["event"] == {"event": "evaluate", "level": 0, "step": 3, "figures": {"loss": 0.5, "none": None}}
    assert (broken["level"], broken["logger"]) == ("error", "netgraph.run")
    assert "two\nlines" in broken["exception"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (smooth(0.25), "step 0 of 100, level 0: loss 0.25, lr 0.1"),
        ({"event": "up", "level": 1, "step": 2, "length": 0.0}, "step 2 of 100, level 1: correction rejected"),
        ({"event": "up", "level": 1, "step": 2, "length": 0.5}, "step 2 of 100, level 1: correction of length 0.5"),
        ({"event": "skip", "level": 1, "step": 2, "why": "too far"}, "step 2 of 100, level 1: skip, too far"),
        ({"event": "finish", "level": 0, "step": 9, "reason": "spent"}, "step 9 of 100, level 0: finish, spent"),
    ],
)
def test_events_are_logged_in_words(record, words, caplog):
    with caplog.at_level(logging.DEBUG, logger="netgraph"):
        log_event(make_run(), record)
    assert caplog.messages == [words]
