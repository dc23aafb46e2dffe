"""Networks as files of runtimes: ONNX Runtime and a process without netgraph answer as the network does, or a sentence says why not."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import netgraph as ng
from netgraph.coarsen.runtimes import formats, torch_program
from netgraph.errors import FileDiffersError, NetgraphError
from netgraph.models import mlp
from netgraph.models.transformer import Encoder
from tests.support.attention_networks import SIZES, TOKENS

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


class Tied(nn.Module):
    """An embedding and an output layer that share a weight, an input by keyword, and an answer by name."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids, *, scale):
        x = torch.relu(self.hidden(self.embedding(ids))) * scale[:, None, None]
        return {"logits": self.out(x), "states": [x, None]}


class FixedRows(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1).sum(1)


class Decides(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Cache:
    """What no runtime returns."""


class Caching(nn.Module):
    def forward(self, x):
        return {"y": 2 * x, "cache": Cache()}


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x @ x.transpose(1, 2))


def require_onnx():
    """Skip a test where the extra ``runtimes`` is not installed. The gate installs it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def tied_example():
    return {"ids": IDS, "scale": torch.tensor([1.0, 2.0])}


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """Return a network with a tied weight, and its files for two runtimes with their reports."""
    require_onnx()
    folder = tmp_path_factory.mktemp("tied")
    torch.manual_seed(0)
    network = Tied()
    reports = {end: ng.export(network, folder / f"net.{end}", example=tied_example()) for end in ("onnx", "pt2")}
    return network, folder, reports


def run_onnx(path, **inputs):
    """Return the outputs of a file in ONNX Runtime, by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_onnx_runtime_answers_as_the_network_for_any_number_of_rows(tied):
    network, folder, _ = tied
    for n in (1, 2, 7):
        ids, scale = torch.randint(0, 9, (n, 3)), torch.randn(n)
        network.eval()
        with torch.no_grad():
            expected = network(ids, scale=scale)
        answer = run_onnx(folder / "net.onnx", ids=ids.numpy(), scale=scale.numpy())
        assert answer.keys() == {"logits", "states_0"}
        np.testing.assert_allclose(answer["logits"], expected["logits"].numpy(), atol=1e-5)
        np.testing.assert_allclose(answer["states_0"], expected["states"][0].numpy(), atol=1e-5)


def test_the_report_has_names_shapes_and_the_opset(tied):
    _, folder, reports = tied
    for end, report in reports.items():
        assert report.inputs == [
            {"name": "ids", "dtype": "int64", "shape": ["batch", 3]},
            {"name": "scale", "dtype": "float32", "shape": ["batch"]},
        ]
        assert [(p["name"], p["shape"]) for p in report.outputs] == [
            ("logits", ["batch", 3, 9]),
            ("states_0", ["batch", 3, 4]),
        ]
        assert (report.batch, report.fixed_by) == (None, "")
        assert report.bytes == (folder / f"net.{end}").stat().st_size
        assert report.example.rows == 6  # two, one and three rows
    import onnx

    model = onnx.load(folder / "net.onnx")
    onnx.checker.check_model(model)
    assert reports["onnx"].details == {"opset": model.opset_import[0].version}
    assert {p.key: p.value for p in model.metadata_props} == {"netgraph": ng.__version__, "torch": torch.__version__}


def test_a_file_names_no_place_of_this_machine(tied):
    _, folder, _ = tied
    here = [str(folder).encode(), sys.prefix.encode(), __file__.encode(), torch.__file__.encode()]
    contents = [(folder / "net.onnx").read_bytes()]
    with zipfile.ZipFile(folder / "net.pt2") as archive:
        contents += [archive.read(name) for name in archive.namelist()]
    assert not [place for place in here for content in contents if place in content]


def test_a_process_without_netgraph_opens_a_program_with_one_tied_weight(tied):
    network, folder, _ = tied
    torch.save((IDS[:1], torch.ones(1)), folder / "inputs.pt")
    program = (
        "import sys; sys.modules['netgraph'] = None\n"
        "import torch\n"
        "model = torch.export.load('net.pt2').module()\n"
        "assert sum(p.numel() for _, p in model.named_parameters(remove_duplicate=False)) == 36 + 20\n"
        "ids, scale = torch.load('inputs.pt')\n"
        "torch.save(model(ids=ids, scale=scale)['logits'], 'answer.pt')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    network.eval()
    torch.testing.assert_close(torch.load(folder / "answer.pt"), network(IDS[:1], scale=torch.ones(1))["logits"])


def test_an_export_leaves_the_network_as_it_was(tmp_path):
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ng.export(network, tmp_path / "net.pt2", example=torch.randn(2, 3))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_level_of_a_hierarchy_is_written_by_its_name(tmp_path):
    require_onnx()
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(Encoder(40, 3, **SIZES), TOKENS, n_levels=2)
    report = ng.export(hierarchy, tmp_path / "net.onnx")
    assert report.inputs == [{"name": "tokens", "dtype": "int64", "shape": ["batch", TOKENS.shape[1]]}]
    assert report.example.relative < 1e-5
    for level in (0, 1):
        ng.export(hierarchy, tmp_path / f"net.level{level}.pt2")
        opened = torch.export.load(tmp_path / f"net.level{level}.pt2").module()
        torch.testing.assert_close(opened(TOKENS), hierarchy.levels[level].model.eval()(TOKENS))
    with pytest.raises(NetgraphError, match="levels 0 to 1"):
        ng.export(hierarchy, tmp_path / "net.level7.pt2")


def test_a_part_of_the_answer_that_is_no_tensor_is_left_out_and_named(tmp_path):
    report = ng.export(Caching(), tmp_path / "net.pt2", example=torch.randn(2, 3))
    assert report.left_out == ["cache (Cache)"]
    assert [port["name"] for port in report.outputs] == ["y"]
    answer = torch.export.load(tmp_path / "net.pt2").module()(torch.ones(4, 3))
    torch.testing.assert_close(answer["y"], 2 * torch.ones(4, 3))


def test_a_batch_that_the_code_fixes_is_named(tmp_path):
    report = ng.export(FixedRows(), tmp_path / "net.pt2", example=torch.randn(2, 4))
    assert report.batch == 2
    assert "own code fixes it at 2" in report.fixed_by
    asked = ng.export(mlp((4, 3)), tmp_path / "net.pt2", example=torch.randn(2, 4), batch=5)
    assert (asked.batch, asked.fixed_by, asked.inputs[0]["shape"]) == (5, "", [5, 4])


def test_what_a_runtime_does_not_take_is_named(tmp_path):
    require_onnx()
    cases = [
        (Decides(), "net.pt2", "torch.export cannot record Decides at 'return x if x.sum"),
        (Eigenvalues(), "net.onnx", "no operator for aten._linalg_eigh"),
        (nn.Conv1d(3, 2, 1).bfloat16(), "net.onnx", "does not run this network in bfloat16"),
    ]
    for network, name, reason in cases:
        example = torch.randn(2, 3, 3).to(next(iter(network.parameters()), torch.zeros(1)).dtype)
        with pytest.raises(NetgraphError, match=reason) as refused:
            ng.export(network, tmp_path / name, example=example)
        assert len(str(refused.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())


def test_a_half_precision_passes_by_its_roundoff(tmp_path):
    require_onnx()
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).half()
    report = ng.export(network, tmp_path / "net.onnx", example=torch.randn(2, 8).half())
    assert report.example.relative <= report.tolerance == 8 * torch.finfo(torch.float16).eps


def test_a_file_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "net.pt2"
    path.write_text("older")

    def open_wrong(place, program):
        run = torch_program.open_program(place, program)
        return lambda tensors: [t + 1e-3 for t in run(tensors)]

    wrong = formats.RuntimeFormat("a wrong runtime", torch_program.write_program, open_wrong)
    monkeypatch.setitem(formats.FORMATS, "pt2", wrong)
    with pytest.raises(FileDiffersError, match="of a wrong runtime to a random example"):
        ng.export(nn.Linear(3, 2), path, example=torch.randn(2, 3))
    assert (path.read_text(), len(list(tmp_path.iterdir()))) == ("older", 1)


def test_real_rows_are_compared_too(tmp_path):
    network, rows = nn.Linear(3, 2), torch.randn(150, 3)
    assert ng.export(network, tmp_path / "a.pt2", example=torch.randn(2, 3), data=rows).data.rows == 150
    assert ng.export(network, tmp_path / "a.pt2", example=torch.randn(2, 3), data=rows, batch=4).data.rows == 148
    with pytest.raises(NetgraphError, match="other sizes"):
        ng.export(network, tmp_path / "a.pt2", example=torch.randn(2, 3), data=torch.randn(9, 4))
    with pytest.raises(NetgraphError, match="fewer rows than a batch of 4"):
        ng.export(network, tmp_path / "a.pt2", example=torch.randn(2, 3), data=rows[:3], batch=4)


def test_a_page_of_a_network_and_idle_arguments_are_refused(tmp_path):
    network = nn.Linear(3, 2)
    with pytest.raises(NetgraphError, match=r"shows a hierarchy, and this is a network \(Linear\)"):
        ng.export(network, tmp_path / "net.html")
    hierarchy = ng.build_hierarchy(mlp((4, 6, 2)), torch.zeros(2, 4))
    with pytest.raises(NetgraphError, match="batch would have no effect"):
        ng.export(hierarchy, tmp_path / "net.json", batch=2)
    with pytest.raises(NetgraphError, match=r"--aot compiles a \.pt2 file"):
        ng.export(network, tmp_path / "net.onnx", example=torch.randn(2, 3), aot=True)
    assert not list(tmp_path.iterdir())


def test_compiling_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_program.shutil, "which", lambda name: None)
    with pytest.raises(NetgraphError, match=r"no C\+\+ compiler"):
        ng.export(nn.Linear(3, 2), tmp_path / "net.pt2", example=torch.randn(2, 3), aot=True)
