"""A coarse network takes its arguments and gives its answer as the network itself does. Judge: the network, called in the same way."""

import copy
import inspect
import json
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import netgraph as ng
from netgraph.errors import TraceError
from netgraph.recording.graph_module import network_from_document


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    step: int = 3


@dataclass(slots=True)
class Slotted:
    logits: Tensor
    share: Tensor = field(init=False)

    def __post_init__(self):
        self.share = self.logits.softmax(-1)


@dataclass
class Made:
    logits: Tensor

    def __post_init__(self):
        self.top = self.logits.amax(-1)  # an attribute, no field


class Answering(nn.Module):
    """A small network whose answer a function makes from two tensors."""

    def __init__(self, answer):
        super().__init__()
        self.a, self.b, self.answer = nn.Linear(6, 8), nn.Linear(8, 3), answer

    def forward(self, x):
        h = self.a(x)
        return self.answer(self.b(h.relu()), h.mean(-1))


def duplicate_units(layer, next_layer):
    """Make the second half of a layer's units equal to the first, so that merging by two keeps the function."""
    half = layer.out_features // 2
    with torch.no_grad():
        layer.weight[half:], layer.bias[half:] = layer.weight[:half], layer.bias[:half]
        assert next_layer.in_features == layer.out_features


def coarse_and_fine(net, example, **more):
    hierarchy = ng.build_hierarchy(net, example, n_levels=2, **more)
    return hierarchy.levels[1].model.eval(), net.eval()


def same(a, b):
    """Compare two answers: classes, names and numbers."""
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        torch.testing.assert_close(a, b)
    elif isinstance(a, dict):
        assert [(type(k), k) for k in a] == [(type(k), k) for k in b]
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif hasattr(a, "__dict__"):
        same(vars(a), vars(b))
    else:
        assert a == b


ANSWERS = {
    "numbers as keys": lambda y, h: {0: y, 1: h},
    "keys of five kinds": lambda y, h: {1: y, "1": h, (1, "to", None): y, 1.5: h, None: y},
    "bytes, complex and sets as keys": lambda y, h: {b"y": y, 1j: h, frozenset((2, 1)): y},
    "true as a key": lambda y, h: {True: y, "rest": {False: h}},
    "keys deep inside": lambda y, h: ([{("a", "b"): (y, {2: h})}],),
    "ordered": lambda y, h: OrderedDict([("b", y), ("a", h)]),
    "ordered, numbers": lambda y, h: OrderedDict([(2, y), (1, h)]),
    "named tuple": Pair,
    "named tuple inside": lambda y, h: {"pair": Pair(y, h), 3: [Pair(h, y)]},
    "maximum and its place": lambda y, h: y.max(-1),
    "frozen dataclass": lambda y, h: Frozen(y),
    "dataclass that makes an attribute": lambda y, h: Made(y),
    "namespace": lambda y, h: SimpleNamespace(logits=y, inner=SimpleNamespace(features=h)),
    "nothing beside": lambda y, h: (y, None, "text", 4, 2.5, True),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_coarse_network_answers_in_the_classes_of_the_network(name):
    torch.manual_seed(0)
    net, x = Answering(ANSWERS[name]), torch.randn(4, 6)
    duplicate_units(net.a, net.b)
    coarse, fine = coarse_and_fine(net, x)
    x = torch.randn(5, 6)
    same(coarse(x), fine(x))
    same(copy.deepcopy(coarse)(x), fine(x))


def test_a_dataclass_with_slots_and_a_made_field_comes_back():
    net = Answering(lambda y, h: Slotted(y))
    duplicate_units(net.a, net.b)
    coarse, fine = coarse_and_fine(net, torch.randn(4, 6))
    x = torch.randn(3, 6)
    assert type(coarse(x)) is Slotted
    torch.testing.assert_close(coarse(x).logits, fine(x).logits)
    torch.testing.assert_close(coarse(x).share, fine(x).share)


def test_a_dict_with_a_default_keeps_its_class_and_keys():
    net = Answering(lambda y, h: defaultdict(list, {3: y, "h": h}))
    answer = coarse_and_fine(net, torch.randn(4, 6))[0](torch.randn(4, 6))
    assert type(answer) is defaultdict
    assert list(answer) == [3, "h"]


class Box:
    def __init__(self, inner):
        self.inner = inner


class Parted(dict):
    """A dict whose class asks for more than items."""

    def __init__(self, y, h):
        super().__init__(y=y, h=h)


def test_an_object_as_the_answer_is_refused_by_its_class():
    with pytest.raises(TraceError, match="Box"):
        ng.trace(Answering(lambda y, h: Box(y)), torch.randn(4, 6))
    with pytest.raises(TraceError, match="Box"):
        ng.trace(Answering(lambda y, h: [Box(y), 3]), torch.randn(4, 6))
    with pytest.raises(TraceError, match="Parted"):
        ng.trace(Answering(Parted), torch.randn(4, 6))


def test_a_key_that_no_file_holds_is_refused_by_its_class():
    with pytest.raises(TraceError, match="Box"):
        ng.trace(Answering(lambda y, h: {Box(1): y}), torch.randn(4, 6))


FROM_FILE = [name for name in ANSWERS if "dataclass" not in name]


@pytest.mark.parametrize("name", FROM_FILE)
def test_an_answer_survives_the_file_without_the_network(name, tmp_path):
    net = Answering(ANSWERS[name])
    coarse, _ = coarse_and_fine(net, torch.randn(4, 6))
    ng.save(coarse, tmp_path / "coarse.safetensors")
    loaded, x = ng.load(tmp_path / "coarse.safetensors"), torch.randn(5, 6)
    a, b = loaded(x), coarse(x)
    if "named tuple" not in name:
        same(a, b)
    else:
        pair, expected = (a, b) if name == "named tuple" else (a["pair"], b["pair"])
        assert pair._fields == expected._fields
        torch.testing.assert_close(pair.features, expected.features)


@pytest.mark.parametrize("answer", [Pair, lambda y, h: Frozen(y), lambda y, h: Made(y), lambda y, h: {0: Frozen(h)}])
def test_levels_answer_in_the_network_s_class_after_loading(answer, tmp_path):
    hierarchy = ng.build_hierarchy(Answering(answer), torch.randn(4, 6), n_levels=3)
    ng.save(hierarchy, tmp_path / "net.hierarchy")
    loaded, x = ng.load(tmp_path / "net.hierarchy", arch=lambda: Answering(answer)), torch.randn(5, 6)
    for level, before in zip(loaded.levels, hierarchy.levels, strict=True):
        same(level.model.eval()(x), before.model.eval()(x))


def test_a_file_without_the_network_tells_which_class_is_lost(tmp_path, caplog):
    ng.save(
        ng.build_hierarchy(Answering(lambda y, h: Frozen(y)), torch.randn(4, 6), n_levels=2), tmp_path / "n.hierarchy"
    )
    with caplog.at_level("WARNING", logger="netgraph"):
        answer = ng.load(tmp_path / "n.hierarchy").levels[1].model(torch.randn(4, 6))
    assert isinstance(answer, dict)
    assert "Frozen" in caplog.text


def test_a_file_cannot_choose_a_class_that_runs_code(tmp_path):
    coarse, _ = coarse_and_fine(Answering(Pair), torch.randn(4, 6))
    for name in (
        "os.system",
        "subprocess.Popen",
        "namedtuple x; import os",
        "torch.return_types.__loader__",
        "builtins.eval",
    ):
        document = json.loads(json.dumps(coarse.document()))
        document["outputs"] = {mode: {**s, "was": name} for mode, s in document["outputs"].items()}
        assert type(network_from_document(document, coarse.tensors())(torch.randn(4, 6))) is dict


def test_only_documents_with_new_keys_have_a_new_number():
    assert coarse_and_fine(Answering(Pair), torch.randn(4, 6))[0].document()["format"] == 1
    assert coarse_and_fine(Answering(lambda y, h: {0: y}), torch.randn(4, 6))[0].document()["format"] == 2


def test_a_document_without_arguments_names_its_inputs_by_number():
    coarse, _ = coarse_and_fine(Answering(Pair), torch.randn(4, 6))
    document = {k: v for k, v in coarse.document().items() if k != "arguments"}
    old, x = network_from_document(document, coarse.tensors()), torch.randn(4, 6)
    torch.testing.assert_close(old(x).logits, coarse(x).logits)
    assert list(inspect.signature(old).parameters) == ["input_0"]


# Arguments


class Arguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.seen = None

    def forward(self, images, mask=None, /, scale=1.0, *, sizes=(1, 2), names=None, limit=float("nan")):
        h = torch.relu(self.a(images))
        h = h if mask is None else h * mask
        return self.b(h) * scale * sizes[0]


def test_a_coarse_network_tells_the_arguments_of_the_network():
    coarse, fine = coarse_and_fine(Arguments(), torch.randn(4, 6))
    for target in (coarse, coarse.forward, copy.deepcopy(coarse), copy.copy(coarse).forward):
        assert str(inspect.signature(target)) == str(inspect.signature(fine.forward))


def test_an_argument_goes_by_position_or_by_name_and_at_its_default():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, images, scale=1.0, offset=None):
            return self.b(self.a(images).relu()) * scale

    x = torch.randn(4, 6)
    for example in (x, {"images": x}, (x, 1.0), {"images": x, "scale": 1.0, "offset": None}):
        coarse, _ = coarse_and_fine(Net(), example)
        expected = coarse(x)
        for args, kwargs in (((), {"images": x}), ((x, 1.0), {}), ((x,), {"scale": 1.0}), ((x, 1.0, None), {})):
            assert torch.equal(coarse(*args, **kwargs), expected)
        for wrong, word in (((x, 2.0), "scale"), ((x, 1.0, x), "offset"), ((x, True), "scale")):
            with pytest.raises(TraceError, match=word):
                coarse(*wrong)
        with pytest.raises(TraceError, match=r"images"):
            coarse(pictures=x)
        with pytest.raises(TraceError, match="images"):
            coarse(torch.randn(4, 7))


def test_an_argument_of_the_example_may_not_be_left_out():
    x, mask = torch.randn(4, 6), torch.ones(4, 1)
    coarse, fine = coarse_and_fine(Arguments(), (x, mask))
    torch.testing.assert_close(coarse(x, mask).shape, fine(x, mask).shape)
    with pytest.raises(TraceError, match="mask"):
        coarse(x)


def test_names_behind_two_stars_become_names():
    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x, **masks):
            return self.b(self.a(x).relu() * masks["mask"])

    x, mask = torch.randn(4, 6), torch.rand(4, 1)
    coarse, _ = coarse_and_fine(Masks(), {"mask": mask, "x": x})
    assert list(inspect.signature(coarse).parameters) == ["x", "mask"]
    assert torch.equal(coarse(x, mask=mask), coarse(mask=mask, x=x))


def test_parts_behind_one_star_go_by_position():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, *parts):
            return self.b(self.a(parts[0] - 2 * parts[1]).relu())

    net, x, y = Sum(), torch.randn(4, 6), torch.randn(4, 6)
    duplicate_units(net.a, net.b)
    coarse, fine = coarse_and_fine(net, (x, y))
    torch.testing.assert_close(coarse(x, y), fine(x, y))
    with pytest.raises(TraceError, match="parts"):
        coarse(x)


@pytest.mark.parametrize("kind", ["tuple keys", "named tuple", "dataclass", "namespace"])
def test_arguments_of_other_classes_reach_the_network_as_they_are(kind):
    two = namedtuple("two", "x y")
    make = {
        "tuple keys": lambda x, y: {("a", 0): x, ("a", 1): y},
        "named tuple": lambda x, y: two(x, y),
        "dataclass": lambda x, y: Frozen((x, y), 0),
        "namespace": lambda x, y: SimpleNamespace(x=x, y=y),
    }[kind]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, value):
            if isinstance(value, dict):
                x, y = value["a", 0], value["a", 1]
            else:
                x, y = value.logits if isinstance(value, Frozen) else (value.x, value.y)
            return self.b(self.a(x - y).relu())

    net = Net()
    duplicate_units(net.a, net.b)
    coarse, fine = coarse_and_fine(net, (make(torch.randn(4, 6), torch.randn(4, 6)),))
    value = make(torch.randn(5, 6), torch.randn(5, 6))
    torch.testing.assert_close(coarse(value), fine(value))
    torch.testing.assert_close(coarse(value=value), fine(value))


def test_arguments_survive_the_file(tmp_path):
    coarse, _ = coarse_and_fine(Arguments(), (torch.randn(4, 6), torch.ones(4, 1)))
    ng.save(coarse, tmp_path / "coarse.safetensors")
    loaded = ng.load(tmp_path / "coarse.safetensors")
    assert str(inspect.signature(loaded)) == str(inspect.signature(coarse))
    x, mask = torch.randn(3, 6), torch.rand(3, 1)
    assert torch.equal(loaded(x, mask, scale=1.0), coarse(x, mask))
    with pytest.raises(TraceError, match="scale"):
        loaded(x, mask, 3.0)


def test_a_coarse_network_exports_with_a_free_batch():
    net, x = Answering(Pair), torch.randn(3, 6)
    coarse, _ = coarse_and_fine(net, x)
    for names in ({"x": {0: torch.export.Dim("rows", min=1)}}, ({0: torch.export.Dim("rows", min=1)},)):
        exported = torch.export.export(coarse, (x,), dynamic_shapes=names).module()
        for rows in (1, 3, 8):
            x = torch.randn(rows, 6)
            torch.testing.assert_close(exported(x).logits, coarse(x).logits)


def test_a_coarse_network_compiles():
    coarse, _ = coarse_and_fine(Answering(lambda y, h: y), torch.randn(3, 6))
    x = torch.randn(5, 6)
    compiled = torch.compile(coarse, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), coarse(x))
    torch.testing.assert_close(compiled(x=x), coarse(x))


def prepare_for_quantisation(training):
    """Return a small network with the observers, or the fake roundings, of PyTorch's eager quantisation."""
    quantization = torch.ao.quantization
    model = nn.Sequential(
        quantization.QuantStub(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), quantization.DeQuantStub()
    )
    if training:
        model.train().qconfig = quantization.get_default_qat_qconfig("x86")
        return quantization.prepare_qat(model)
    model.eval().qconfig = quantization.get_default_qconfig("x86")
    return quantization.prepare(model)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:Please use quant_min")
@pytest.mark.parametrize("training", [False, True])
def test_a_network_prepared_for_quantisation_is_refused_by_that(training):
    with pytest.raises(TraceError, match=r"prepared for quantisation.*Coarsen the network first"):
        ng.trace(prepare_for_quantisation(training), torch.randn(4, 6))


@pytest.mark.parametrize("model", [nn.Linear, torch.relu, nn.Linear(6, 3).state_dict()])
def test_what_is_no_module_is_refused_by_its_type(model):
    with pytest.raises(TraceError, match=rf"of type {type(model).__name__}, and not a torch.nn.Module"):
        ng.trace(model, torch.randn(4, 6))
