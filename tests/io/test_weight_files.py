"""Weights in several files, in folders of pickles and in adapters."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d, embedding, linear

from netgraph.errors import LoadError, UntrustedError
from netgraph.io.checkpoint.low_rank import merge_adapter
from netgraph.io.load import load_model
from netgraph.models.perceptron import mlp

ARCH = "netgraph.models:mlp"


def write_shards(folder, state, ending, names=None):
    """Write a state dict to two files with an index, and return the path of the index."""
    whole = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    parts = list(state.items())[::2], list(state.items())[1::2]
    files = names or [f"part-{i}.{ending}" for i in (1, 2)]
    for file, part in zip(files, parts, strict=True):
        tensors = {k: v.contiguous() for k, v in part}
        save_file(tensors, folder / file) if ending == "safetensors" else torch.save(tensors, folder / file)
    places = {name: file for file, part in zip(files, parts, strict=True) for name, _ in part}
    index = folder / f"{whole}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_in_several_files_open_by_their_index(tmp_path, ending):
    net, x = mlp(), torch.randn(2, 64)
    index = write_shards(tmp_path, net.state_dict(), ending)
    assert torch.equal(load_model(index, arch=ARCH)(x), net(x))
    with pytest.raises(LoadError, match="--arch"):
        load_model(index)


@pytest.mark.parametrize("wrong", ["missing", "outside", "lacking", "form"])
def test_a_wrong_index_is_one_sentence(tmp_path, wrong):
    index = write_shards(tmp_path, mlp().state_dict(), "safetensors")
    document = json.loads(index.read_text())
    first = next(iter(document["weight_map"]))
    if wrong == "form":
        document = [1]
    elif wrong == "lacking":
        document["weight_map"]["more"] = document["weight_map"][first]
    else:
        document["weight_map"][first] = {"missing": "part-3.safetensors", "outside": "../part-1.safetensors"}[wrong]
    index.write_text(json.dumps(document))
    message = {
        "missing": r"part-3.safetensors, which is missing",
        "outside": r"'../part-1.safetensors', which is no file beside it",
        "lacking": r"places more in part-1.safetensors, which does not have it",
        "form": r"is not the index",
    }
    with pytest.raises(LoadError, match=message[wrong]):
        load_model(index, arch=ARCH)


def test_every_part_of_an_index_is_scanned(tmp_path):
    index = write_shards(tmp_path, mlp().state_dict(), "bin")
    torch.save({"0.weight": nn.Linear(2, 2)}, tmp_path / "part-1.bin")
    with pytest.raises(UntrustedError, match=r"part-1.bin holds torch.nn.modules.linear.Linear"):
        load_model(index, arch=ARCH)


BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 50, "max_position_embeddings": 32, "architectures": ["BertForMaskedLM"],
}  # fmt: skip


@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_of_pickles_opens_as_one_of_safetensors(tmp_path, sharded):
    transformers = pytest.importorskip("transformers")
    net = transformers.BertForMaskedLM(transformers.AutoConfig.for_model(**BERT)).eval()
    net.config.save_pretrained(tmp_path)
    if sharded:
        write_shards(tmp_path, net.state_dict(), "bin")
    else:
        torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    ids = torch.randint(0, 50, (2, 8))
    assert torch.equal(load_model(f"hf:{tmp_path}")(ids).logits, net(ids).logits)
    torch.save({"x": SimpleNamespace(), **net.state_dict()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match=r"more than"):
        load_model(f"hf:{tmp_path}")


def test_a_merged_adapter_adds_its_product_to_every_kind_of_layer(tmp_path):
    torch.manual_seed(0)
    layers = {
        "a.proj": torch.randn(6, 4), "b.proj": torch.randn(6, 4), "conv": torch.randn(5, 3, 3, 3), "embed": torch.randn(9, 4),
        "flat": torch.randn(4, 6),
    }  # fmt: skip
    weights = {f"{name}.weight": tensor for name, tensor in layers.items()} | {
        "a.proj.bias": torch.zeros(6),
        "head.weight": torch.ones(2),
    }
    p = "base_model.model."
    adapter = {
        f"{p}a.proj.lora_A.weight": torch.randn(2, 4), f"{p}a.proj.lora_B.weight": torch.randn(6, 2),
        f"{p}a.proj.lora_B.bias": torch.randn(6),
        f"{p}b.proj.lora_A.weight": torch.randn(4, 4), f"{p}b.proj.lora_B.weight": torch.randn(6, 4),
        f"{p}conv.lora_A.weight": torch.randn(2, 3, 3, 3), f"{p}conv.lora_B.weight": torch.randn(5, 2, 1, 1),
        f"{p}embed.lora_embedding_A": torch.randn(2, 9), f"{p}embed.lora_embedding_B": torch.randn(4, 2),
        f"{p}head.weight": torch.full((2,), 3.0),
    }  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "alpha_pattern": {r"b\.proj": 1}}
    for stabilised in (False, True):
        merged = merge_adapter(weights, adapter, {**config, "use_rslora": stabilised}, tmp_path)
        low = {name.removeprefix(p): tensor for name, tensor in adapter.items()}

        def scale(alpha, rank, root=stabilised):
            return alpha / (rank**0.5 if root else rank)

        x = torch.randn(3, 4)
        added = linear(linear(x, low["a.proj.lora_A.weight"]), low["a.proj.lora_B.weight"], low["a.proj.lora_B.bias"])
        got = linear(x, merged["a.proj.weight"], merged["a.proj.bias"])
        assert torch.allclose(got, linear(x, layers["a.proj"]) + scale(6, 2) * added, atol=1e-4)
        added = linear(linear(x, low["b.proj.lora_A.weight"]), low["b.proj.lora_B.weight"])
        assert torch.allclose(
            linear(x, merged["b.proj.weight"]), linear(x, layers["b.proj"]) + scale(1, 4) * added, atol=1e-4
        )
        image = torch.randn(2, 3, 7, 7)
        added = conv2d(conv2d(image, low["conv.lora_A.weight"]), low["conv.lora_B.weight"])
        assert torch.allclose(
            conv2d(image, merged["conv.weight"]), conv2d(image, layers["conv"]) + scale(6, 2) * added, atol=1e-3
        )
        ids = torch.arange(9)
        added = embedding(ids, low["embed.lora_embedding_A"].T) @ low["embed.lora_embedding_B"].T
        assert torch.allclose(embedding(ids, merged["embed.weight"]), layers["embed"] + scale(6, 2) * added, atol=1e-4)
        assert torch.equal(merged["head.weight"], torch.full((2,), 3.0))
        assert merged["flat.weight"] is weights["flat.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "kind IA3"),
        ({"use_dora": True}, "kind use_dora"),
        ({"alpha_pattern": {"(a+)+": 1}}, r"pattern '\(a\+\)\+'"),
        ({"alpha_pattern": {"[": 1}}, r"pattern '\['"),
    ],
)
def test_adapters_of_another_formula_are_refused_by_name(tmp_path, change, message):
    adapter = {"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.ones(2, 1)}
    with pytest.raises(LoadError, match=message):
        merge_adapter({"a.weight": torch.ones(2, 2)}, adapter, {"peft_type": "LORA", **change}, tmp_path)


def test_parts_of_an_adapter_without_a_place_are_refused_by_name(tmp_path):
    weights = {"a.weight": torch.ones(2, 3)}
    factors = {"a.lora_A.weight": torch.ones(1, 3), "a.lora_B.weight": torch.ones(2, 1)}
    merge_adapter(weights, factors, {}, tmp_path)
    for wrong in (
        {"a.lora_A.weight": torch.ones(1, 3)},
        {**factors, "a.lora_B.weight": torch.ones(4, 1)},
        {**factors, "a.lora_B.weight": torch.ones(2, 2)},
        {**factors, "a.lora_magnitude_vector": torch.ones(2)},
        {**factors, "head.weight": torch.ones(1)},
        {name.replace("a.", "c."): t for name, t in factors.items()},
        {**factors, "a.lora_B.bias": torch.ones(2)},
        {"a.lora_A.weight": torch.ones(1, 2**20), "a.lora_B.weight": torch.ones(2**22, 1)},  # a product of 16 TiB
        {"a.lora_A.weight": torch.ones(0, 2**20), "a.lora_B.weight": torch.ones(2**22, 0)},
    ):
        with pytest.raises(LoadError, match=r"merge_and_unload"):
            merge_adapter(weights, wrong, {}, tmp_path)


LLAMA = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def randomise_adapter(net):
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "tied"])
def test_an_adapter_of_peft_opens_merged_into_its_base(tmp_path, kind):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    if kind == "gpt2":  # its layers store the transposed weight
        base = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
        )
        options = {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 3}, "use_rslora": True}
    else:
        base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=kind == "tied"))
        options = {
            "target_modules": ["q_proj", "down_proj", "embed_tokens"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {r"layers\.0\.mlp\.down_proj": 2},
        }
    base.save_pretrained(tmp_path / "base")
    net = peft.get_peft_model(base, peft.LoraConfig(r=2, lora_alpha=7, **options))
    randomise_adapter(net)
    net.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(tmp_path / "base")})
    )
    if kind == "tied":
        with pytest.raises(LoadError, match=r"embed_tokens.weight, which is tied to lm_head"):
            load_model(f"hf:{tmp_path / 'adapter'}")
        return
    ids = torch.randint(0, 50, (2, 8))
    opened = load_model(f"hf:{tmp_path / 'adapter'}")
    assert type(opened) is type(base)
    assert torch.allclose(opened(ids).logits, net.eval()(ids).logits, atol=1e-4)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(LoadError, match=r"adapter of the network .*base_model_name_or_path=FOLDER"):
        load_model(f"hf:{tmp_path / 'adapter'}")
    moved = load_model(f"hf:{tmp_path / 'adapter'}", arch_args={"base_model_name_or_path": str(tmp_path / "moved")})
    assert torch.allclose(moved(ids).logits, net(ids).logits, atol=1e-4)
