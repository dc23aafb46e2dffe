"""An option is written once: the same field makes a keyword, an option of the command line, a line of the docstring and a key of files."""

import inspect
import json
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Annotated

import pytest
import torch
import typer
from command_line import run
from torch import nn
from typer.testing import CliRunner

import netgraph as ng
from netgraph.cli.main import app
from netgraph.cli.options.command_options import After, with_options
from netgraph.cli.options.open_network import DataOptions, OpenOptions
from netgraph.cli.options.run import RunOptions
from netgraph.coarsen.hierarchy.options import CoarsenOptions
from netgraph.errors import NetgraphError
from netgraph.fas.solver.train_options import TrainOptions
from netgraph.models.perceptron import mlp
from netgraph.utils.options import declare_option, list_flags, list_options

KINDS = (CoarsenOptions, TrainOptions, RunOptions, DataOptions, OpenOptions)


def network():
    return mlp((6, 16, 12, 3)), torch.zeros(2, 6)


def parameters_of(command):
    """Return the options that a command shows, by name, with their help."""
    shown = typer.main.get_command(app).commands[command].params
    return {p.name: p.help for p in shown if p.param_type_name == "option"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_a_help_text_and_those_of_coarsening_a_check(kind):
    for field, info in list_options(kind):
        assert info.help.endswith("."), field.name
        assert kind is not CoarsenOptions or info.check is not None, field.name
    assert {field.name for field, _ in list_options(kind)} | {"coarsening"} >= {field.name for field in fields(kind)}


@pytest.mark.parametrize("command", ["coarsen", "export", "features", "attention"])
def test_a_command_that_coarsens_shows_every_field_with_its_help(command):
    shown = parameters_of(command)
    for kind in (CoarsenOptions, DataOptions, OpenOptions):
        for _, flag in list_flags(kind):
            assert shown[flag.name] == flag.help


def test_train_shows_every_field_of_its_options_with_its_help():
    shown = parameters_of("train")
    for kind in (TrainOptions, RunOptions):
        for _, flag in list_flags(kind):
            assert shown[flag.name] == flag.help


def test_keywords_and_docstring_of_build_hierarchy_are_the_fields():
    parameters = inspect.signature(ng.build_hierarchy).parameters
    for field in fields(CoarsenOptions):
        assert parameters[field.name].default == field.default
        assert f"\n    {field.name} : " in ng.build_hierarchy.__doc__
        assert f"\n    {field.name} : " in CoarsenOptions.__doc__
    extra = ["model", "example", "options", "data", "loss", "spec", "progress"]
    assert sorted(parameters) == sorted([*extra, *(field.name for field in fields(CoarsenOptions))])


@dataclass(frozen=True, kw_only=True)
class MoreOptions(CoarsenOptions):
    """Options of coarsening, and one that a test adds."""

    patience: int = declare_option(5, help="Steps to wait.", metavar="N", saved="always")


def test_an_option_that_is_added_to_the_class_is_on_the_command_line_and_in_plain_data():
    built = []
    command = typer.Typer()

    @command.command()
    @with_options
    def wait(options: MoreOptions, times: Annotated[int, typer.Option(), After("patience")] = 1) -> None:
        built.append(options)

    help_text = CliRunner().invoke(command, ["--help"]).stdout
    assert "--patience" in help_text
    assert "Steps to wait." in help_text
    assert help_text.index("--seed") < help_text.index("--patience") < help_text.index("--times")
    assert CliRunner().invoke(command, ["--patience", "7", "--levels", "4", "--keep", "a"]).exit_code == 0
    assert built == [MoreOptions(patience=7, n_levels=4, keep=("a",), ratio={"*": 0.5})]
    assert built[0].to_plain()["patience"] == 7
    assert MoreOptions.from_plain({"patience": 7}).patience == 7


@pytest.mark.parametrize(
    "options",
    [
        CoarsenOptions(),
        CoarsenOptions(n_levels=3, directions="channels+space,depth", depth_by="copy", inside_heads=True),
        CoarsenOptions(ratio={"0": 0.25, "*": 0.5}, keep=["b", "a"], fixed={"0": [3, 1, 3], "2": []}, round_to=4),
        CoarsenOptions(coarsener="auto", affinity="normed", budget="units=0.5", repair="rescale", seed=1),
    ],
)
def test_plain_data_are_json_and_give_the_same_options(options):
    plain = options.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    assert CoarsenOptions.from_plain({**plain, "example": "an older key"}).to_plain() == plain


def test_a_function_is_written_by_its_name():
    def runs(graph, n_coarse, *, seed):
        raise AssertionError("only its name is asked for")

    assert (
        CoarsenOptions(coarsener=runs, affinity=runs).to_plain().items()
        >= {"coarsener": "runs", "affinity": "runs"}.items()
    )


def test_the_options_of_a_hierarchy_build_the_same_hierarchy_and_keywords_replace_single_ones():
    model, example = network()
    first = ng.build_hierarchy(model, example, n_levels=3, ratio={"0": 0.25, "*": 0.5}, keep=iter(["2"]), seed=3)
    again = ng.build_hierarchy(model, example, options=first.options)
    for a, b in zip(first.levels, again.levels, strict=True):
        assert {n: t.aggregates.tolist() for n, t in a.transfers.items()} == {
            n: t.aggregates.tolist() for n, t in b.transfers.items()
        }
    other = ng.build_hierarchy(model, example, options=first.options, n_levels=2)
    assert other.options == replace(first.options, n_levels=2)


def test_the_options_of_a_saved_hierarchy_are_those_that_it_was_built_with(tmp_path):
    model, example = network()
    hierarchy = ng.build_hierarchy(model, example, n_levels=3, fixed={"0": [1, 5]}, repair="rescale")
    ng.save(hierarchy, tmp_path / "m.hierarchy")
    loaded = ng.load(tmp_path / "m.hierarchy")
    assert loaded.options == hierarchy.options
    assert loaded.inputs is None
    assert ng.Hierarchy(hierarchy.levels).options is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"n_levels": 1}, "n_levels .--levels. is 1"),
        ({"ratio": 1.5}, "is 1.5. Give one above 0 and at most 1"),
        ({"ratio": {"0": 0}}, "the ratio of axis '0', the share of units that stay, is 0"),
        ({"ratio": "gap:0.1"}, "needs a loss to measure"),
        ({"ratio": "gap:0.1", "directions": "depth"}, "'depth' merges no units"),
        ({"round_to": 0}, "Give a multiple of 1 or more"),
        ({"directions": "sideways"}, "no direction of coarsening is called 'sideways'"),
        ({"depth_by": "half"}, "depth_by is 'half'"),
        ({"coarsener": "none"}, "no coarsener named 'none'"),
        ({"affinity": "none"}, "no affinity named 'none'"),
        ({"keep": [0]}, "Give names of axes"),
        ({"fixed": [0]}, "Give a dict"),
        ({"inside_heads": "yes"}, "Give True or False"),
        ({"budget": "units"}, "is not KIND=SHARE"),
        ({"repair": "glue"}, "no repair is called 'glue'"),
        ({"quality": -1}, "Give 0 or more"),
        ({"seed": -1}, "a seed is a whole number"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_before_the_network_is_traced(keywords, message):
    with pytest.raises(NetgraphError, match=message.replace("(", r"\(")):
        ng.build_hierarchy(None, None, **keywords)


def test_an_unknown_keyword_is_refused_as_python_does():
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'ratios'. Its options are affinity, blocks, budget"
    ):
        ng.build_hierarchy(nn.Linear(2, 2), torch.zeros(1, 2), ratios=0.5)


def test_the_options_in_run_json_have_the_names_of_the_command_line():
    plain = TrainOptions().to_plain()
    assert list(plain) == [flag.name for _, flag in list_flags(TrainOptions)]
    assert (plain["levels"], plain["coarsen"], plain["ratio"], plain["cycle"]) == (3, "channels", 0.5, "kaskade")
    code, out, _ = run("train", "mlp", "--widths", "16,8", "--epochs", 0.1, "--levels", 2, "--lr", 0.01, "--json")
    assert code == 0
    settings = json.loads(out)["settings"]
    assert set(settings) <= set(plain)
    assert (settings["levels"], settings["lr"], settings["seed"]) == (2, 0.01, 7619)


def test_mlflow_gets_the_options_that_have_a_value_by_their_names_and_a_table_without_control_characters(
    monkeypatch, tmp_path
):
    arguments = {}
    monkeypatch.setattr("netgraph.fas.monitoring.mlflow_tracking.MLflow", lambda **given: arguments.update(given))
    model, example = network()
    task = SimpleNamespace(
        name="mlp",
        network=model,
        example=example,
        data=SimpleNamespace(name="rows", classes=("a", "b"), tokenizer=None),
    )
    options = TrainOptions(lr=0.1, coarsening=CoarsenOptions(n_levels=2))
    hierarchy = ng.build_hierarchy(model, example)
    monkeypatch.setattr(type(hierarchy), "__str__", lambda self: "a\tb\nlayer\x1b]0;title\x07\udc80")
    RunOptions(mlflow=True).make_callbacks(task, hierarchy, options)
    arguments["artefacts"][0](tmp_path)
    assert (tmp_path / "hierarchy.txt").read_bytes() == rb"a	b" b"\n" rb"layer\x1b]0;title\x07\udc80" b"\n"
    params = arguments["params"]
    assert params == {"network": "mlp", **{k: v for k, v in options.to_plain().items() if v not in (None, "")}}
    assert (params["lr"], params["levels"], params["coarsener"]) == (0.1, 2, "hem")
