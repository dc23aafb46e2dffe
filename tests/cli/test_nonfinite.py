"""Numbers that are not finite are named, in the verdict, in the report and by the exit code."""

import dataclasses
import json
import logging

import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.finite_values import find_nonfinite_outputs
from tests.support.command_line import run

ARCH = ("--arch", "netgraph.models.perceptron:mlp", "--arch-arg", "sizes=(6,8,3)", "--input", "4x6")


def save_mlp(path, change):
    from netgraph.models import mlp

    torch.manual_seed(0)
    state = mlp((6, 8, 3)).state_dict()
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "2.bias"])
def test_verify_fails_a_network_whose_outputs_are_not_finite(tmp_path, name, value):
    save_mlp(tmp_path / "m.pt", lambda state: state[name].fill_(value))
    code, out, err = run("verify", tmp_path / "m.pt", *ARCH)
    assert code == 4
    assert "numbers of its outputs are not finite" in out
    assert f"{name} is not finite" in err
    code, out, _ = run("verify", tmp_path / "m.pt", *ARCH, "--json")
    assert code == 4
    row = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))[0]
    assert (row["oracle"], row["error"], row["passes"]) == ("finite", None, False)


class Divides(nn.Module):
    """Answers nan although all weights are finite."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))) / x.new_zeros(())


class Masks(nn.Module):
    """Minus infinity is a mask and no fault."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))).masked_fill(torch.tensor([True, False, False]), -torch.inf)


def test_the_verdict_looks_at_outputs_and_spares_masks():
    x = torch.randn(4, 6)
    net = Divides()
    verdicts = ng.verify(net, ng.trace(net, x, prove=False), x)
    assert [(v.oracle, v.passes(1.0)) for v in verdicts] == [("finite", False)]
    assert find_nonfinite_outputs(Masks(), x) is None
    assert find_nonfinite_outputs(nn.Linear(6, 2), x) is None


def test_merging_that_overflows_is_named_in_the_report_and_by_the_exit_code(tmp_path):
    save_mlp(tmp_path / "m.pt", lambda state: state["2.weight"].fill_(60000.0))
    torch.save({k: v.half() for k, v in torch.load(tmp_path / "m.pt").items()}, tmp_path / "m.pt")
    from netgraph.models import mlp

    net = mlp((6, 8, 3)).half()
    net.load_state_dict(torch.load(tmp_path / "m.pt"))
    level = ng.build_hierarchy(net, torch.zeros(4, 6).half()).levels[1]
    assert level.reasons["overflowed"] == ["2.weight"]
    own = tmp_path / "half.safetensors"
    ng.save(ng.build_hierarchy(mlp((6, 8, 3)).half(), torch.zeros(4, 6).half()).levels[1].model, own)
    from netgraph.io.bundle import read_bundle, write_bundle

    tensors, document = read_bundle(own)
    tensors["2.weight"].fill_(60000.0)
    write_bundle(own, tensors, document)
    code, out, err = run("coarsen", own, "--input", "4x6:float16")
    assert code == 4
    assert "not finite: sums of merged weights overflow float16 in 2.weight. Coarsen the network in float32" in out
    assert "level 1 is not finite" in err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_coarsening_names_weights_that_were_not_finite_before(tmp_path, value):
    save_mlp(
        tmp_path / "m.pt", lambda state: state["2.bias"][:1].fill_(value)
    )  # of outputs, which no affinity compares
    for words in ((), ("--json",), ("-o", tmp_path / "m.hierarchy")):
        code, _, err = run("coarsen", tmp_path / "m.pt", *ARCH, *words)
        assert code == 4
        assert "2.bias is not finite in the network, and so in each level" in err
    save_mlp(tmp_path / "m.pt", lambda state: None)
    assert run("coarsen", tmp_path / "m.pt", *ARCH)[0] == 0


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def answer(self, x):
        return self.two(torch.relu(self.one(x)))


@dataclasses.dataclass
class Answer:
    first: torch.Tensor
    second: torch.Tensor


class Spoils(TwoLayers):
    """Answers in one of several forms, with NaN in a part."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        y, nan = self.answer(x), float("nan")
        return {
            "dict": lambda: {"first": y, "second": y * nan},
            "dataclass": lambda: Answer(y, y * nan),
            "one row": lambda: torch.where(torch.arange(len(y))[:, None] == 2, nan, y),
            "imaginary part": lambda: torch.complex(y, y * nan),
            "beside integers": lambda: (y.argmax(1), y * nan),
        }[self.form]()


@pytest.mark.parametrize("form", ["dict", "dataclass", "one row", "imaginary part", "beside integers"])
def test_nan_in_a_part_of_the_outputs_fails_the_network(form):
    net, x = Spoils(form), torch.randn(4, 6)
    assert "numbers of its outputs are not finite" in find_nonfinite_outputs(net, x)
    verdicts = ng.verify(net, ng.trace(net, x, prove=False), x)
    assert [(v.oracle, v.passes(1.0)) for v in verdicts] == [("finite", False)]


def test_integers_and_an_infinite_bound_are_no_fault():
    class Bounds(TwoLayers):
        def __init__(self):
            super().__init__()
            self.register_buffer("bound", torch.full((3,), float("inf")))

        def forward(self, x):
            y = torch.minimum(self.answer(x), self.bound)
            return y, y.argmax(1)

    assert find_nonfinite_outputs(Bounds(), torch.randn(4, 6)) is None


class SpoilsTraining(TwoLayers):
    """Answers NaN in training mode alone."""

    def forward(self, x):
        y = self.answer(x)
        return y * float("nan") if self.training else y


def train(net, caplog):
    x, y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    with caplog.at_level(logging.WARNING, logger="netgraph.fas"):
        hierarchy = ng.build_hierarchy(net, x, prove=False)
        solver = ng.FAS("v", torch.optim.SGD, 0.1, cycles=1)
        solution = solver.solve(hierarchy, ng.Problem([(x, y)], nn.functional.cross_entropy))
    return solution, [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


def test_training_names_a_network_that_answers_nan_in_training_mode_alone_at_its_first_step(caplog):
    net, x = SpoilsTraining(), torch.randn(4, 6)
    assert all(v.passes(1e-4) for v in ng.verify(net, ng.trace(net, x, prove=False), x))  # in evaluation mode
    solution, warnings = train(net, caplog)
    assert "step 1 was refused, because its loss (nan) is not finite. All weights are finite" in warnings[0]
    assert sum("step 1 was refused" in warning for warning in warnings) == 1
    assert "steps were refused" in solution.reason


def test_training_names_the_weight_that_is_not_finite_at_its_first_step(caplog):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    hierarchy = ng.build_hierarchy(net, torch.randn(4, 6))
    with torch.no_grad():
        net[2].bias[1] = float("nan")
    problem = ng.Problem([(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))], nn.functional.cross_entropy)
    with caplog.at_level(logging.WARNING, logger="netgraph.fas"):
        ng.FAS("v", torch.optim.SGD, 0.1, cycles=1).solve(hierarchy, problem)
    assert "step 1 was refused, because its loss (nan) is not finite. 2.bias is not finite." in caplog.text


class Attends(nn.Module):
    """Attention of two heads."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        rows = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        return self.out(rows.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_sums_of_merged_weights_that_overflow_are_named_in_each_kind_of_layer(kind, dtype):
    torch.manual_seed(0)
    nets = {
        "convolution": lambda: (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)),
            torch.zeros(2, 3, 5, 5),
            "2.weight",
        ),
        "attention": lambda: (Attends(), torch.zeros(2, 3, 8), "out.weight"),
    }
    net, x, name = nets[kind]()
    net.to(dtype).get_parameter(name).data.fill_(0.9 * torch.finfo(dtype).max)
    level = ng.build_hierarchy(net, x.to(dtype), prove=False).levels[1]
    assert level.reasons["overflowed"] == [name]
    assert not torch.isfinite(level.model.get_parameter(name)).all()


def test_repair_that_leaves_the_range_of_half_precision_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).half()
    with torch.no_grad():
        net[2].weight.copy_(net[2].weight.sign() * 60000)
    assert all(torch.isfinite(p).all() for p in net.parameters())
    data = torch.randn(64, 6).half() * 1e-2
    level = ng.build_hierarchy(net, data[:4], repair="ridge", data=data, prove=False, ratio=0.25).levels[1]
    infinite = [n for n, t in level.model.named_parameters() if not torch.isfinite(t).all()]
    assert infinite == level.reasons.get("overflowed", [])
    assert "2.weight" in infinite


class Overflows(nn.Module):
    """Weights are finite in half precision, and products of large inputs are not."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.one.weight.fill_(2e4)
            self.two.weight.fill_(1e3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x.abs() + 1)))


def make_overflows():
    return Overflows().half()


def test_coarsening_names_outputs_that_are_not_finite_though_all_weights_are(tmp_path):
    torch.save(make_overflows().state_dict(), tmp_path / "m.pt")
    arch = ("--arch", "tests.cli.test_nonfinite:make_overflows")
    code, _, err = run("coarsen", tmp_path / "m.pt", *arch, "--input", "4x6:float16")
    assert code == 4
    assert "the network answers with numbers that are not finite" in err


@pytest.mark.parametrize(("lr", "wanted"), [("1e30", 4), ("1e-3", 0)])
def test_training_whose_steps_were_refused_says_so_by_its_exit_code(lr, wanted):
    code, out, _ = run(
        "train", "mlp", "--plain", "--epochs", 1, "--lr", lr, "--schedule", "constant", "--optimizer", "sgd"
    )
    assert code == wanted
    assert ("steps were refused" in out) == bool(wanted)
