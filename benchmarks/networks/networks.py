"""The networks of `benchmarks/networks/zoo.py`: names, and functions that build a network and its example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

BuiltNetwork = tuple[nn.Module, Any]


HEAVY = (
    "regnet_y_128gf", "vit_h_14", "regnet_y_32gf", "regnet_x_32gf", "efficientnet_b7", "efficientnet_b6", "efficientnet_b5",
    "efficientnet_v2_l", "convnext_large", "convnext_base", "vit_l", "regnet_y_16gf", "regnet_x_16gf", "swin_b", "swin_v2_b",
    "resnext101", "wide_resnet101", "swin3d_b", "vgg1",
)  # fmt: skip
DETECTORS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn")


def torchvision_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield every classification, segmentation and video network of torchvision, and detector backbones. Heavy ones come last."""
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    import torchvision.models as zoo

    for name in zoo.list_models(module=zoo.segmentation):
        yield f"torchvision:{name}", lambda name=name: _torchvision_network(name, 96, weights_backbone=None)
    for name in DETECTORS:
        yield (
            f"torchvision:{name}.backbone",
            lambda name=name: (_torchvision_model(name).backbone, torch.randn(2, 3, 128, 128)),
        )
    for name in sorted(zoo.list_models(module=zoo), key=lambda n: n.startswith(HEAVY)):
        yield f"torchvision:{name}", lambda name=name: _torchvision_network(name)
    for name in sorted(zoo.list_models(module=zoo.video), key=lambda n: n.startswith(HEAVY)):
        size = 224 if "mvit" in name or "swin" in name or name == "s3d" else 112
        yield (
            f"torchvision:{name}",
            lambda name=name, size=size: (_torchvision_model(name), torch.randn(2, 3, 16, size, size)),
        )


def _torchvision_model(name: str, **options: Any) -> nn.Module:
    from netgraph.io.model_zoo import build_network

    return build_network(f"torchvision:{name}", options)


def _torchvision_network(name: str, size: int = 224, **options: Any) -> BuiltNetwork:
    return _torchvision_model(name, **options), torch.randn(
        2, 3, 299 if name == "inception_v3" else size, 299 if name == "inception_v3" else size
    )


TIMM = (
    "resnet18", "resnetv2_50", "resnext50_32x4d", "seresnet18", "ecaresnet26t", "skresnet18", "regnety_004", "efficientnet_b0",
    "mobilenetv3_small_100", "mobilenetv4_conv_small", "mixnet_s", "ghostnet_100", "tf_efficientnetv2_b0", "convnext_atto",
    "convnextv2_atto", "dm_nfnet_f0", "vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "mixer_s32_224", "gmlp_ti16_224", "resmlp_12_224", "poolformer_s12", "cait_xxs24_224", "xcit_nano_12_p16_224",
    "coat_tiny", "crossvit_tiny_240", "levit_128s", "maxvit_tiny_tf_224", "edgenext_xx_small", "mobilevit_xxs", "pvt_v2_b0", "densenet121",
    "dpn68", "hrnet_w18_small", "dla34", "inception_v4", "xception41", "vovnet39a", "repvgg_a0", "fastvit_t8", "efficientformer_l1", "twins_svt_small",
    "visformer_tiny", "halonet26t", "lambda_resnet26t", "eva02_tiny_patch14_224", "focalnet_tiny_srf", "davit_tiny", "hiera_tiny_224",
)  # fmt: skip


def timm_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield one network of each family of timm."""
    for name in TIMM:
        yield f"timm:{name}", lambda name=name: _timm_network(name)


def _timm_network(name: str) -> BuiltNetwork:
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    import timm

    model = timm.create_model(name, pretrained=False)
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    return model, torch.randn(2, *size)


SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 128,
}
DECODER = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
IDS = {"input_ids": torch.arange(32).reshape(2, 16) % 100 + 3}
IMAGE = {"pixel_values": torch.randn(2, 3, 32, 32)}
TRANSFORMERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "BertForSequenceClassification": (SMALL, IDS),
    "BertForMaskedLM": (SMALL, IDS),
    "RobertaForMaskedLM": (SMALL, IDS),
    "AlbertForMaskedLM": ({**SMALL, "embedding_size": 32}, IDS),
    "DistilBertForSequenceClassification": ({"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 128}, IDS),
    "DebertaV2ForSequenceClassification": ({**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, IDS),
    "ElectraForSequenceClassification": ({**SMALL, "embedding_size": 32}, IDS),
    "GPT2LMHeadModel": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}, IDS),
    "GPTNeoXForCausalLM": (SMALL, IDS),
    "OPTForCausalLM": ({**SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64}, IDS),
    "LlamaForCausalLM": (DECODER, IDS),
    "MistralForCausalLM": (DECODER, IDS),
    "MixtralForCausalLM": ({**DECODER, "num_local_experts": 4}, IDS),
    "Qwen2ForCausalLM": (DECODER, IDS),
    "Qwen3ForCausalLM": ({**DECODER, "head_dim": 16}, IDS),
    "GemmaForCausalLM": ({**DECODER, "head_dim": 16}, IDS),
    "PhiForCausalLM": (SMALL, IDS),
    "T5ForConditionalGeneration": (
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128},
        {**IDS, "decoder_input_ids": IDS["input_ids"]},
    ),
    "BartForConditionalGeneration": (
        {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 2, "forced_eos_token_id": 2},
        {**IDS, "decoder_input_ids": IDS["input_ids"]},
    ),
    "ViTForImageClassification": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
    "SwinForImageClassification": (
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}, IMAGE
    ),
    "ConvNextForImageClassification": ({"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, IMAGE),
    "WhisperForAudioClassification": (
        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "num_mel_bins": 16, "max_source_positions": 20},
        {"input_features": torch.randn(2, 16, 40)},
    ),
    "Wav2Vec2ForSequenceClassification": (
        {**SMALL, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
         "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
        {"input_values": torch.randn(2, 800)},
    ),
    "MambaForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8}, IDS),
    "CLIPVisionModelWithProjection": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
}  # fmt: skip


def transformers_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield architectures of transformers, built small from configs."""
    for name, (options, example) in TRANSFORMERS.items():
        yield (
            f"transformers:{name}",
            lambda name=name, options=options, example=example: (_transformers_network(name, options), example),
        )


def _transformers_network(name: str, options: dict[str, Any]) -> nn.Module:
    from netgraph.environment.torchvision_compat import prepare_torchvision

    prepare_torchvision()
    import transformers

    cls = getattr(transformers, name)
    config = cls.config_class(**options)
    config.use_cache = False
    config.layerdrop = 0.0  # it drops layers at random in training, a branch on numbers
    if "num_local_experts" in options:
        config._experts_implementation = (
            "batched_mm"  # the default needs bfloat16, and the other loops over the chosen experts
        )
    return cls(config)  # type: ignore[no-any-return]


def pyg_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield message-passing networks of torch-geometric on a small graph."""
    for name in ("GCN", "GAT", "GraphSAGE", "GIN", "PNA", "EdgeCNN"):
        yield f"pyg:{name}", lambda name=name: _pyg_network(name)
    for name in ("TransformerConv", "SGConv"):
        yield f"pyg:{name}", lambda name=name: _pyg_layer_network(name)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 0, 3], [1, 2, 3, 4, 5, 6, 7, 0, 4, 6]])


def _pyg_network(name: str) -> BuiltNetwork:
    import torch_geometric.nn as pyg

    options: dict[str, Any] = {"in_channels": 10, "hidden_channels": 32, "num_layers": 2, "out_channels": 4}
    if name == "PNA":
        options |= {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.tensor([0, 6, 2])}
    return getattr(pyg, name)(**options), (torch.randn(8, 10), EDGES)


def _pyg_layer_network(name: str) -> BuiltNetwork:
    import torch_geometric.nn as pyg

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = getattr(pyg, name)(10, 32), getattr(pyg, name)(32, 4)

        def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x, edges).relu(), edges)

    return Net(), (torch.randn(8, 10), EDGES)


class Recurrent(nn.Module):
    """An embedding, recurrent layers and a classifier."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24)
        self.layers = getattr(nn, kind)(24, 32, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(64 if options.get("bidirectional") else 32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return class scores from the last step."""
        out: torch.Tensor = self.head(self.layers(self.embedding(ids))[0][:, -1])
        return out


def recurrent_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield LSTM, GRU and RNN classifiers."""
    ids = torch.randint(0, 100, (2, 12))
    for kind in ("LSTM", "GRU", "RNN"):
        yield f"recurrent:{kind}", lambda kind=kind: (Recurrent(kind), ids)
    yield "recurrent:BiLSTM", lambda: (Recurrent("LSTM", bidirectional=True), ids)


def all_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield every network, family by family."""
    yield from recurrent_networks()
    yield from pyg_networks()
    yield from transformers_networks()
    yield from timm_networks()
    yield from torchvision_networks()
