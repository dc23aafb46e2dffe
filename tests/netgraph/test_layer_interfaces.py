"""What PyTorch and its libraries do to the layers of a recorded network: each either works as on the network itself, or is refused by name.

The judge is the network itself under the same interface, or the answer before it. The table is in docs/ownclass.md.
"""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import netgraph as ng
from netgraph.coarsen.hierarchy.serialize import save
from netgraph.errors import TraceError

LAYERS = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.LayerNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.RNNBase,
)
IMAGES, ROWS, WORDS = torch.randn(4, 3, 32, 32), torch.randn(4, 8), torch.randint(0, 20, (4, 6))


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out, self.up, self.down = (
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, n, _ = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(batch, n, 3, 2, 8).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.out(heads.reshape(batch, n, 16))
        return x + self.down(nn.functional.gelu(self.up(self.after(x))))


class VisionTransformer(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 16, 16, 16), nn.Parameter(0.02 * torch.randn(1, 4, 16))
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


class Reader(nn.Module):
    """An LSTM over words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rows, self.head = nn.Embedding(20, 16), nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(self.words(x))[0][:, -1])


def _build_resnet() -> nn.Module:
    return pytest.importorskip("torchvision").models.resnet18(num_classes=10)


def _build_bert() -> nn.Module:
    library = pytest.importorskip("transformers")
    return library.BertForSequenceClassification(
        library.BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=16
        )
    )  # fmt: skip


def _build_gpt2() -> nn.Module:
    library = pytest.importorskip("transformers")
    config = library.GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return library.GPT2LMHeadModel(config)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), ROWS),
    "resnet18": (_build_resnet, IMAGES),
    "vit": (VisionTransformer, IMAGES),
    "lstm": (Reader, WORDS),
    "bert": (_build_bert, {"input_ids": WORDS}),
    "gpt2": (_build_gpt2, {"input_ids": WORDS}),
}


def run(network: Any, example: Any) -> Tensor:
    """Return the first tensor of the answer to an example."""
    answer = network(**example) if isinstance(example, dict) else network(example)
    return answer if isinstance(answer, Tensor) else next(iter(answer.values()))


@cache
def _record(name: str) -> tuple[nn.Module, nn.Module, Any, Tensor]:
    build, example = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    recorded = ng.coarse_network(model, ng.trace(model, example), {}).eval()
    return model, recorded, example, run(recorded, example).detach()


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Any, Tensor]:
    """A network, a copy of its recording, an example and its answer."""
    model, recorded, example, answer = _record(request.param)
    return model, copy.deepcopy(recorded), example, answer


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    """A group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def measure_error(answer: Tensor, expected: Tensor) -> float:
    """Return the relative distance of two answers."""
    return float((answer.float() - expected).norm() / expected.norm())


def list_layers(network: nn.Module, kinds: Any = LAYERS) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]


def _list_fired(network: nn.Module, example: Any) -> list[str]:
    fired: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, name=n: fired.append(name)) for n, m in list_layers(network)]
    run(network, example)
    for hook in hooks:
        hook.remove()
    return fired


def test_forward_hooks_fire_as_on_the_network(case):
    model, recorded, example, _ = case
    fired = _list_fired(recorded, example)
    assert fired == _list_fired(model, example)
    assert len(fired) == len(list_layers(model))


def test_backward_hooks_fire_or_pytorch_names_the_writing_in_place(case):
    model, recorded, example, _ = case
    fired: list[str] = []
    for name, module in list_layers(recorded):
        module.register_full_backward_hook(lambda *_, name=name: fired.append(name))
    if any(isinstance(module, nn.ReLU) and module.inplace for module in model.modules()):
        with pytest.raises(RuntimeError, match="being modified inplace"):
            run(recorded.train(), example)
        return
    run(recorded.train(), example).sum().backward()
    assert sorted(set(fired)) == sorted(name for name, _ in list_layers(model))


def test_a_parametrization_takes_effect(case):
    _, recorded, example, answer = case
    layer = list_layers(recorded, nn.Linear)[-1][1]
    torch.nn.utils.parametrizations.weight_norm(layer)
    assert torch.allclose(run(recorded, example), answer, atol=1e-5)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)
    assert measure_error(run(recorded, example), answer) > 0.1


class LowRank(nn.Module):
    """A linear layer with an addition of rank 2."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base = layer
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_a_swapped_layer_takes_effect_trains_and_is_copied_and_no_file_of_a_graph_holds_it(case, tmp_path):
    _, recorded, example, answer = case
    name, layer = list_layers(recorded, nn.Linear)[-1]
    recorded.set_submodule(name, LowRank(layer))
    changed = run(recorded, example)
    assert not torch.equal(changed, answer)
    file = io.BytesIO()
    torch.save(recorded, file)
    file.seek(0)
    for copied in (copy.deepcopy(recorded), torch.load(file, weights_only=False)):
        assert torch.equal(run(copied, example), changed)
    with pytest.raises(TraceError, match=rf"layers were replaced, and {name}\.\S+ is new"):
        save(recorded, tmp_path / "network.safetensors")
    with torch.no_grad():
        recorded.get_submodule(name).up.weight.zero_()
    assert torch.equal(run(recorded, example), answer)
    run(recorded.train(), example).sum().backward()
    assert recorded.get_submodule(name).up.weight.grad.any()


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation_replaces_the_layers_that_it_replaces_in_the_network(case):
    model, recorded, example, answer = case

    def quantise(network: nn.Module) -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear, nn.LSTM}, dtype=torch.qint8)

    quantised = [
        [n for n, m in quantise(net).named_modules() if "dynamic" in type(m).__module__] for net in (model, recorded)
    ]
    assert quantised[0] == quantised[1] != []
    for network in (quantise(recorded), copy.deepcopy(quantise(recorded))):
        assert 0 < measure_error(run(network, example), answer) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_to_half_precision_runs_and_answers_in_it(case, dtype):
    _, recorded, example, answer = case
    inputs = example.to(dtype) if isinstance(example, Tensor) and example.is_floating_point() else example
    result = run(recorded.to(dtype), inputs)
    assert result.dtype == dtype
    assert measure_error(result, answer) < 0.05


def test_autocast_reaches_the_layers(case):
    model, recorded, example, _ = case
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    if is_recurrent and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("PyTorch runs no LSTM in bfloat16 on this processor")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(recorded, example), run(model, example))


def test_symbolic_tracing_is_refused_by_name(case):
    _, recorded, _, _ = case
    with pytest.raises(TraceError, match=r"torch\.fx\.symbolic_trace cannot follow a recorded network"):
        torch.fx.symbolic_trace(recorded)


def test_an_exported_program_has_a_free_batch_and_names_the_layers(case):
    model, recorded, example, answer = case
    batch = torch.export.Dim("batch", min=2, max=64)
    inputs = example if isinstance(example, dict) else {}
    args = () if inputs else (example,)
    shapes = {name: {0: batch} for name in inputs} if inputs else ({0: batch},)
    program = torch.export.export(recorded, args, inputs, dynamic_shapes=shapes)
    double = {n: torch.cat([x, x]) for n, x in inputs.items()} if inputs else torch.cat([example, example])
    assert torch.allclose(run(program.module(), double), torch.cat([answer, answer]), atol=1e-5)
    called = {name for node in program.graph.nodes for name, _ in (node.meta.get("nn_module_stack") or {}).values()}
    assert {name for name, _ in list_layers(model)} <= called


def test_a_network_compiles_without_a_graph_break(case):
    _, recorded, example, answer = case
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):  # PyTorch's compiler refuses every nn.LSTM without it
        compiled = torch.compile(recorded, backend="aot_eager", fullgraph=True)
        assert torch.allclose(run(compiled, example), answer, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_torchao_quantises_the_linear_layers(case, bits):
    quantization = pytest.importorskip("torchao.quantization")
    model, recorded, example, answer = case
    config = quantization.IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"))
    quantization.quantize_(recorded, config)
    assert all(type(layer.weight.data) is not Tensor for _, layer in list_layers(recorded, nn.Linear))
    quantised = copy.deepcopy(model)
    quantization.quantize_(quantised, config)
    assert torch.allclose(run(recorded, example), run(quantised, example), atol=1e-5)
    assert measure_error(run(recorded, example), answer) > 0


@pytest.mark.filterwarnings("ignore")
def test_peft_finds_its_targets(case):
    peft = pytest.importorskip("peft")
    model, recorded, example, answer = case
    targets = [name for name, _ in list_layers(recorded, nn.Linear)][-2:]
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(recorded, config).eval()
    torch.manual_seed(1)
    expected = run(peft.get_peft_model(copy.deepcopy(model), config).eval(), example)
    assert torch.allclose(run(adapted, example), expected, atol=1e-5)
    with adapted.disable_adapter():
        assert torch.equal(run(adapted, example), answer)


def test_peft_names_a_target_that_is_no_layer():
    peft = pytest.importorskip("peft")
    recorded = copy.deepcopy(_record("gpt2")[1])
    with pytest.raises(ValueError, match=r"NameGroup\(\) is not supported"):
        peft.get_peft_model(recorded, peft.LoraConfig(r=2, target_modules=["c_attn"]))


@pytest.mark.usefixtures("one_process")
def test_fully_sharded_layers_run_and_train(case):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard = importlib.import_module("torch.distributed.fsdp").fully_shard
    _, recorded, example, answer = case
    users: dict[int, int] = {}
    for module in recorded.modules():
        for parameter in module._parameters.values():
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    for _, layer in list_layers(recorded):
        if all(users[id(parameter)] == 1 for parameter in layer.parameters()):  # tied ones belong to the whole network
            fully_shard(layer, mesh=mesh)
    fully_shard(recorded, mesh=mesh)
    assert torch.allclose(run(recorded, example), answer, atol=1e-6)
    run(recorded.train(), example).sum().backward()
    assert all(parameter.grad is not None for parameter in recorded.parameters())


@pytest.mark.usefixtures("one_process")
def test_one_process_of_data_parallel_training_runs(case):
    _, recorded, example, answer = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel = nn.parallel.DistributedDataParallel(recorded)
    assert torch.equal(run(parallel, example), answer)
    run(parallel.train(), example).sum().backward()
    assert all(parameter.grad is not None for parameter in recorded.parameters())


def test_the_flop_counter_tells_the_layers_apart_as_in_the_network(case):
    model, recorded, example, _ = case
    counts = []
    for network in (model, recorded):
        with FlopCounterMode(display=False, depth=99) as counter:
            run(network, example)
        counts.append({name.partition(".")[2]: dict(c) for name, c in counter.get_flop_counts().items()})
    layers = {name for name, _ in list_layers(model)} & counts[0].keys()
    assert layers
    assert {name: counts[0][name] for name in layers} == {name: counts[1][name] for name in layers}
    assert counts[0][""] == counts[1][""]
