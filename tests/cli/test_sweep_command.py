"""``netgraph sweep``: what it prints and writes, how it goes on, and what it refuses in one sentence."""

import csv
import json

import pytest
import torch

from netgraph.coarsen.sweeps import sweep as sweeps
from netgraph.models import load_splits, mlp
from tests.support.command_line import run_main

WORDS = ("sweep", "net.pt", "--arch", "netgraph.models:mlp", "--arch-arg", "sizes=[6,40,3]", "--data", "labelled.pt")
QUICK = ("--ratios", "0.6,0.3", "--coarseners", "hem", "--no-latency")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with a network and rows that it labels."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network, rows = mlp((6, 40, 3)).eval(), torch.randn(120, 6)
    with torch.no_grad():
        network[2].bias.zero_()
    torch.save(network.state_dict(), "net.pt")
    torch.save((rows, network(rows).argmax(1)), "labelled.pt")
    return tmp_path


def test_rows_are_printed_and_written_as_the_suffixes_say(here):
    files = ("t.csv", "t.json", "t.tex", "t.svg", "t.png", "t.pdf", "t.html")
    code, out, err = run_main(*WORDS, *QUICK, "--json", *(word for file in files for word in ("-o", file)))
    assert code == 0, err
    document = json.loads(out)
    assert [(row["coarsener"], row["ratio"], row["repair"]) for row in document["rows"]] == [
        (None, 1.0, None),
        ("hem", 0.6, "none"),
        ("hem", 0.6, "ridge"),
        ("hem", 0.3, "none"),
        ("hem", 0.3, "ridge"),
    ]
    assert document["rows"][0]["top1"] == 1.0
    assert document["origin"] == {"calibration": "60 of 120 rows", "test": "30 of 120 rows"}
    assert json.loads((here / "t.json").read_text())["rows"] == document["rows"]
    with (here / "t.csv").open() as file:
        assert [int(row["parameters"]) for row in csv.DictReader(file)] == [
            row["parameters"] for row in document["rows"]
        ]
    heads = {
        "t.tex": b"% needs",
        "t.svg": b"<?xml",
        "t.png": b"\x89PNG",
        "t.pdf": b"%PDF",
        "t.html": b"<!doctype html>",
    }
    for file, head in heads.items():
        assert (here / file).read_bytes().startswith(head)
        assert f"netgraph: wrote {file}" in err


def test_the_rows_of_the_test_give_the_metric(here):
    _, out, _ = run_main(*WORDS, *QUICK, "--json", "--test-samples", "10", "--metric", "loss")
    network = mlp((6, 40, 3))
    network.load_state_dict(torch.load("net.pt"))
    test = load_splits("labelled.pt", example=torch.zeros(2, 6), n_test=10).test
    with torch.no_grad():
        expected = float(torch.nn.functional.cross_entropy(network(test.inputs), test.targets))
    assert json.loads(out)["rows"][0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_stopped_sweep_tells_how_it_goes_on(here, monkeypatch):
    measure, count = sweeps.Bench.measure, []

    def stop(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(sweeps.Bench, "measure", stop)
    code, out, err = run_main(*WORDS, *QUICK, "--resume", "rows.jsonl")
    assert (code, out) == (130, "")
    assert "netgraph: rows.jsonl has the rows so far. The same command goes on from there." in err
    assert len((here / "rows.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(sweeps.Bench, "measure", measure)
    code, out, _ = run_main(*WORDS, *QUICK, "--resume", "rows.jsonl")
    assert code == 0
    assert len((here / "rows.jsonl").read_text().splitlines()) == 4
    assert len([line for line in out.splitlines() if line.startswith("hem")]) == 4
    code, out, err = run_main(*WORDS, *QUICK, "--resume", "rows.jsonl", "--seed", "1")
    assert (code, out) == (1, "")
    assert "rows.jsonl holds rows of other data. Give another file." in err  # the seed draws the rows


def test_importances_change_what_is_merged_and_belong_to_the_rows(here):
    quick = ("--ratios", "0.5", "--coarseners", "hem", "--repairs", "none", "--no-latency")
    code, plain, err = run_main(*WORDS, *quick, "--json")
    assert code == 0, err
    code, weighted, err = run_main(*WORDS, *quick, "--json", "--importance", "fisher", "--resume", "rows.jsonl")
    assert code == 0, err
    errors = [json.loads(text)["rows"][1]["error"] for text in (plain, weighted)]
    assert errors[1] != errors[0]
    code, _, err = run_main(*WORDS, *quick, "--resume", "rows.jsonl")
    assert code == 1
    assert 'importance is "fisher" there and null here' in err


def test_nothing_that_succeeds_is_code_3(here):
    code, out, err = run_main(*WORDS, "--ratios", "0.001", "--budgets", "flops", "--no-latency", "-o", "t.csv")
    assert (code, out) == (3, "")
    assert "netgraph: none of 4 combinations gave a network. ward: the budget flops=0.001 cannot be met" in err
    assert not (here / "t.csv").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-o", "t.xlsx"), 1, "t.xlsx ends in .xlsx, and a sweep is written as .csv, .json, .tex"),
        (("-o", "nowhere/t.csv"), 1, "the folder"),
        (("--ratios", "2"), 2, "hold 2.0"),
        (("--coarseners", "hemm"), 1, "no coarsener named 'hemm'"),
        (("--repairs", "all"), 1, "a repair is 'all'"),
        (("--affinities", "correlation", "--coarseners", "ward"), 1, "--affinities would have no effect"),
        (("--metric", "best"), 1, "no metric is called 'best'"),
        (("--resume", "net.pt"), 1, "net.pt cannot be read as rows of a sweep"),
    ],
)
def test_what_is_wrong_is_one_sentence(here, words, code, message):
    before = (here / "net.pt").read_bytes()
    found, out, err = run_main(*WORDS, *words)
    assert (found, out) == (code, ""), err
    assert message in err
    assert (here / "net.pt").read_bytes() == before
