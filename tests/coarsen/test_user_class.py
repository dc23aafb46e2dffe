"""The coarse network in the user's own class equals the recorded graph on large random weights, or is refused."""

import copy
import pickle

import pytest
import torch
from nets import nets
from torch import nn

import netgraph as ng
from netgraph.coarsen.network.compare_outputs import max_relative_error
from netgraph.coarsen.user_class.convert import check_own_class_path, save_own_class
from netgraph.coarsen.user_class.equivalence import draw_large_state
from netgraph.coarsen.user_class.factor_folding import apply_factors, find_parameter_factors
from netgraph.coarsen.user_class.module_attributes import replace_parameters, set_sizes
from netgraph.coarsen.user_class.size_candidates import SizeChange
from netgraph.errors import LoadError, NetgraphError, OwnClassError
from netgraph.models.perceptron import mlp
from netgraph.utils.module_state import swap_state

WORDS = torch.randn(2, 6, 16)


def trained_a_step(model, example):
    """Return the state after a step of SGD in training mode."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(3)
    out = model(*example) if isinstance(example, tuple) else model(example)
    (out[0] if isinstance(out, tuple) else out).square().mean().backward()
    optimizer.step()
    return model.state_dict()


def outputs(model, state, args, training):
    torch.manual_seed(0)
    with swap_state(model, {name: t.clone() for name, t in state.items()}), torch.no_grad():
        return model.train(training)(*args)


class Attention(nn.Module):
    """Attention written by hand. It remembers the sizes with which it views its projections."""

    def __init__(self, dim=16, heads=4, head_dim=4):
        super().__init__()
        self.dim, self.heads, self.head_dim = dim, heads, head_dim
        self.qkv, self.out = nn.Linear(dim, 3 * heads * head_dim), nn.Linear(heads * head_dim, dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).softmax(-1)
        return self.head(self.out((weights @ v).transpose(1, 2).flatten(2)).mean(1))


class Regrouping(Attention):
    """Accepts any width, but groups the wrong dimensions as heads."""

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * 4**-0.5).softmax(-1)
        return self.head(self.out((weights @ v).transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize(("name", "model", "example"), list(nets()), ids=lambda v: v if isinstance(v, str) else "")
def test_every_returned_network_equals_the_recorded_graph(name, model, example):
    hierarchy = ng.build_hierarchy(model, example)
    graph = hierarchy.levels[1].model
    try:
        own = ng.own_class(hierarchy, example)
    except OwnClassError:
        return
    assert type(own) is type(model)
    assert list(own.state_dict()) == list(model.state_dict())
    args = example if isinstance(example, tuple) else (example,)
    fine, coarse = hierarchy.levels[0].spec, hierarchy.levels[1].spec
    state = draw_large_state(graph, 5)  # other weights than those of the proof
    for mode in (False, True):
        expected = outputs(graph, state, args, mode)
        found = outputs(own, apply_factors(state, find_parameter_factors(fine, coarse.sizes)), args, mode)
        assert max_relative_error(expected, found) < 1e-3


def test_most_small_networks_are_built_in_their_own_class():
    came, refused = 0, []
    for name, model, example in nets():
        try:
            ng.own_class(ng.build_hierarchy(model, example), example)
            came += 1
        except OwnClassError:
            refused.append(name)
    assert came > 2 * len(refused), refused


def test_a_training_step_in_the_own_class_equals_one_of_the_graph():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(128, 3)
    )
    x = torch.randn(4, 3, 8, 8)
    hierarchy = ng.build_hierarchy(model, x)
    own = ng.own_class(hierarchy, x)
    theirs, ours = trained_a_step(own, x), trained_a_step(hierarchy.levels[1].model, x)
    for key, value in theirs.items():
        torch.testing.assert_close(value, ours[key])


def test_layers_have_their_new_sizes_and_the_state_dict_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.PReLU(16), nn.Linear(16, 3))
    x = torch.randn(2, 6)
    own = ng.own_class(ng.build_hierarchy(model, x), x)
    assert (own[0].out_features, own[1].normalized_shape, own[2].num_parameters, own[3].in_features) == (8, (8,), 8, 8)
    assert model[0].out_features == 16
    torch.save(own.state_dict(), tmp_path / "own.pt")
    again = copy.deepcopy(own)
    again.load_state_dict(torch.load(tmp_path / "own.pt", weights_only=True))
    assert torch.equal(again(x), own(x))


def test_the_head_count_of_a_hand_written_attention_is_corrected():
    torch.manual_seed(0)
    hierarchy = ng.build_hierarchy(Attention(), WORDS)
    own = ng.own_class(hierarchy, WORDS)
    assert own.heads == 2
    assert own.head_dim == 4
    torch.testing.assert_close(own(WORDS), hierarchy.levels[1].model(WORDS))


def test_a_network_that_groups_heads_wrongly_is_refused():
    hierarchy = ng.build_hierarchy(Regrouping(), WORDS)
    with pytest.raises(OwnClassError, match="its outputs differ in evaluation mode on 2x6x16 by"):
        ng.own_class(hierarchy, WORDS)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_that_shrank_differently_are_refused_before_they_run(kind):
    x = torch.randn(5, 2, 8)
    model = nn.Sequential(getattr(nn, kind)(8, 12, num_layers=2))
    spec, smaller = ng.trace(model, x), getattr(nn, kind)(12, 6)
    state = {name.replace("l0", "l1"): t for name, t in smaller.named_parameters(prefix="0")}
    replace_parameters(model, {**dict(model.named_parameters()), **state})
    with pytest.raises(OwnClassError, match="its layers shrank differently"):
        set_sizes(model, SizeChange(spec, spec.sizes))


def test_tied_embeddings_stay_tied_with_their_factor_in_the_norm():
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mlp, self.norm, self.head = (
                nn.Embedding(20, 16),
                nn.Linear(16, 16),
                nn.LayerNorm(16),
                nn.Linear(16, 20),
            )
            self.head.weight = self.embed.weight

        def forward(self, ids):
            x = self.embed(ids)
            return self.head(self.norm(x + self.mlp(x).relu()))

    ids = torch.randint(0, 20, (2, 6))
    hierarchy = ng.build_hierarchy(Tied(), ids)
    graph, own = hierarchy.levels[1].model, ng.own_class(hierarchy, ids)
    assert own.head.weight is own.embed.weight
    torch.testing.assert_close(own.norm.weight, 2 * graph.norm.weight)
    torch.testing.assert_close(own(ids), graph(ids))


def test_frozen_parameters_and_modes_are_kept():
    model = mlp((6, 16, 3)).eval()
    model[0].weight.requires_grad_(False)
    x = torch.randn(2, 6)
    own = ng.own_class(ng.build_hierarchy(model, x), x)
    assert not own[0].weight.requires_grad
    assert own[2].weight.requires_grad
    assert not own.training


def test_levels_that_do_not_exist_are_refused():
    x = torch.randn(2, 6)
    hierarchy = ng.build_hierarchy(mlp((6, 16, 3)), x)
    for level in (0, 2, -2):
        with pytest.raises(NetgraphError, match=r"is not a coarse level\. The hierarchy has 2 levels"):
            ng.own_class(hierarchy, x, level=level)


def test_a_hierarchy_without_the_class_says_how_to_open_it_with_one(tmp_path):
    x = torch.randn(2, 6)
    ng.save(ng.build_hierarchy(mlp((6, 16, 3)), x), tmp_path / "m.hierarchy")
    with pytest.raises(NetgraphError, match="arch="):
        ng.own_class(ng.load(tmp_path / "m.hierarchy"), x)
    own = ng.own_class(ng.load(tmp_path / "m.hierarchy", arch=lambda: mlp((6, 16, 3))), x)
    assert own[0].out_features == 8


def test_a_class_that_cannot_be_pickled_is_refused_and_leaves_no_file(tmp_path):
    class Local(nn.Module):
        pass

    with pytest.raises(LoadError, match="cannot be saved whole"):
        save_own_class(Local(), tmp_path / "own.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(LoadError, match=r"NAME\.pt"):
        check_own_class_path(mlp(), tmp_path / "own.safetensors")
    save_own_class(mlp((2, 3, 2)), tmp_path / "own.pt")
    assert type(torch.load(tmp_path / "own.pt", weights_only=False)) is nn.Sequential
    assert pickle.dumps(mlp((2, 3, 2)))


class Block(nn.Module):
    """x + f(x) with a norm, as in a transformer."""

    def __init__(self, n=6, n_hidden=9):
        super().__init__()
        self.norm = nn.LayerNorm(n)
        self.up, self.down = nn.Linear(n, n_hidden), nn.Linear(n_hidden, n)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Stack(nn.Module):
    """Blocks in a list, run one after another or by a number in the code."""

    def __init__(self, n_blocks=4, by_number=False):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.blocks, self.by_number = nn.ModuleList(Block() for _ in range(n_blocks)), by_number

    def forward(self, x):
        x = self.first(x)
        for i in range(4) if self.by_number else range(len(self.blocks)):
            x = self.blocks[i](x)
        return self.last(x)


@pytest.mark.parametrize("directions", ["depth", "channels+depth", "depth,depth"])
def test_merged_blocks_are_taken_out_and_the_others_numbered_anew(directions):
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(5, 6), *(Block() for _ in range(4)), nn.Linear(6, 3))
    for network in (Stack(), chain):
        x = torch.randn(4, 5)
        hierarchy = ng.build_hierarchy(network, x, directions=directions, n_levels=directions.count(",") + 2)
        own, n_blocks = ng.own_class(hierarchy, x), 1 if "," in directions else 2
        torch.testing.assert_close(own(x), hierarchy.levels[-1].model(x))
        expected = (
            Stack(n_blocks)
            if network is not chain
            else nn.Sequential(nn.Linear(5, 6), *(Block() for _ in range(n_blocks)), nn.Linear(6, 3))
        )
        assert list(own.state_dict()) == list(expected.state_dict())
        assert len(list(network.modules())) == len(list((Stack() if network is not chain else chain).modules())), (
            "it is left as it is"
        )


def test_a_class_that_counts_its_blocks_in_its_code_is_refused():
    torch.manual_seed(0)
    network, x = Stack(by_number=True), torch.randn(4, 5)
    with pytest.raises(OwnClassError, match=r"cannot be built as a Stack: it fails in evaluation mode.*index"):
        ng.own_class(ng.build_hierarchy(network, x, directions="depth", n_levels=2), x)


class LayeredConfig:
    """What a config of transformers says of layers."""

    def __init__(self, num_hidden_layers=4, layer_types=("a", "b", "c", "d")):
        self.num_hidden_layers, self.layer_types = num_hidden_layers, list(layer_types)
        self.max_layers, self.other_depths = num_hidden_layers, [2, 4, 2]

    def to_dict(self):
        return dict(vars(self))

    @classmethod
    def from_dict(cls, entries):
        made = cls()
        vars(made).update(entries)
        return made


class Layered(nn.Module):
    """Layers of two kinds, told by the config."""

    config_class = LayeredConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.layers = nn.ModuleList(Block() for _ in range(config.num_hidden_layers))

    def save_pretrained(self, folder):
        """Stand for the method by which networks of transformers are known. Nothing calls it here."""

    def forward(self, x):
        x = self.first(x)
        for layer, _ in zip(self.layers, self.config.layer_types, strict=True):
            x = layer(x)
        return self.last(x)


def test_a_config_gets_fewer_layers_and_keeps_what_it_says_of_those_that_stay():
    torch.manual_seed(0)
    network, x = Layered(LayeredConfig()), torch.randn(4, 5)
    hierarchy = ng.build_hierarchy(network, x, directions="depth", n_levels=2)
    kept = [int(block.rpartition(".")[2]) for block in hierarchy.levels[1].chains[0].kept]
    own = ng.own_class(hierarchy, x)
    assert own.config.num_hidden_layers == len(kept) == 2
    assert own.config.layer_types == [network.config.layer_types[i] for i in kept]
    torch.testing.assert_close(own(x), hierarchy.levels[1].model(x))
    assert network.config.to_dict() == LayeredConfig().to_dict()


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        ("BertForSequenceClassification", {"intermediate_size": 128}),
        ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}),
        ("LlamaForCausalLM", {"intermediate_size": 128, "num_key_value_heads": 2}),
    ],
)
def test_transformers_networks_get_a_smaller_config_and_are_saved_and_loaded_with_it(cls, options, tmp_path, capfd):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, cls)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99, **options}
    if cls.startswith("GPT2"):
        small = {"vocab_size": 99, **options}
    model = made(made.config_class(**small, use_cache=False)).eval()
    ids = {"input_ids": torch.randint(3, 99, (2, 8))}
    hierarchy = ng.build_hierarchy(model, ids)
    own = ng.own_class(hierarchy, ids)
    capfd.readouterr()
    save_own_class(own, tmp_path / "small")
    assert capfd.readouterr() == ("", "")
    again = made.from_pretrained(tmp_path / "small").eval()
    assert again.config.hidden_size == 32
    with torch.no_grad():
        assert max_relative_error(hierarchy.levels[1].model(**ids), again(**ids)) < 1e-5
    trained = again.train()(**ids)[0].square().mean()
    trained.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in again.parameters())


def test_numbers_of_tokens_are_no_widths_of_a_config():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=100, pad_token_id=64)
    words = torch.ones(2, 8, dtype=torch.int64)
    hierarchy = ng.build_hierarchy(transformers.GPT2LMHeadModel(config), words, ratio=0.5)
    own = ng.own_class(hierarchy, words)
    assert own.config.pad_token_id == 64, "as many as the neurons of a layer, which became fewer"
    assert own.transformer.h[0].mlp.c_fc.nf < 64


def test_what_belongs_to_a_network_of_transformers_goes_with_its_coarse_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 99,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, num_key_value_heads=2))
    model.generation_config = transformers.GenerationConfig(eos_token_id=[2, 3], pad_token_id=0, max_new_tokens=7)
    model.save_pretrained(tmp_path / "fine")
    names = (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "preprocessor_config.json",
        "chat_template.jinja",
    )
    for name in (*names, "merges.txt", "spiece.model", "training_args.bin", "README.md", "pytorch_model.bin"):
        (tmp_path / "fine" / name).write_text(name)
    opened, ids = ng.load_model(f"hf:{tmp_path / 'fine'}"), torch.randint(3, 99, (2, 8))
    own = ng.own_class(ng.build_hierarchy(opened, ids), ids)
    assert own.generation_config.eos_token_id == [2, 3]
    save_own_class(own, tmp_path / "small")
    written = {path.name for path in (tmp_path / "small").iterdir()}
    assert written == {
        *names,
        "merges.txt",
        "spiece.model",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "netgraph.json",
        "README.md",
    }
    assert "library_name: transformers" in (tmp_path / "small" / "README.md").read_text()
    assert str(tmp_path) not in "".join(
        path.read_text() for path in (tmp_path / "small").iterdir() if path.suffix in (".json", ".md")
    )
    assert (tmp_path / "small" / "merges.txt").read_text() == "merges.txt"
    again = ng.load_model(f"hf:{tmp_path / 'small'}")
    assert (again.generation_config.eos_token_id, again.generation_config.max_new_tokens) == ([2, 3], 7)
