"""Networks of packages that `networks.py` does not have, and families of timm and torch-geometric that it leaves out.

A package that is not installed has no networks. The list was made with::

    pip install segmentation-models-pytorch diffusers monai kornia x-transformers vit-pytorch denoising-diffusion-pytorch \\
        open-clip-torch perceiver-pytorch performer-pytorch linformer conformer iTransformer tab-transformer-pytorch \\
        rtdl_revisiting_models efficientnet-pytorch facenet-pytorch demucs egnn-pytorch pytorch-tcn
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from networks import EDGES, BuiltNetwork, _timm_network
from torch import nn

Make = Callable[[], BuiltNetwork]
TIMM = (
    "resnest14d", "res2net50_26w_4s", "cspdarknet53", "darknetaa53", "rexnet_100", "rdnet_tiny", "repghostnet_050", "repvit_m0_9", "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224", "selecsls42", "tresnet_m", "nest_tiny", "nextvit_small", "pit_ti_224", "mambaout_femto", "mvitv2_tiny", "nasnetalarge",
    "hgnetv2_b0", "hardcorenas_a", "inception_next_atto", "inception_resnet_v2", "gcvit_xxtiny", "convmixer_768_32", "convit_tiny", "coatnet_nano_rw_224",
    "sequencer2d_s", "starnet_s1", "shvit_s1", "swiftformer_xs", "efficientvit_b0", "efficientvit_m0", "fasternet_t0", "volo_d1_224", "vitamin_small_224",
    "vit_relpos_small_patch16_224", "samvit_base_patch16_224", "naflexvit_base_patch16_gap", "bat_resnext26ts", "eca_botnext26ts_256", "botnet26t_256",
    "lcnet_050", "tinynet_e", "fbnetc_100", "gernet_s", "legacy_seresnet18", "efficientformerv2_s0", "swinv2_cr_tiny_224",
    "vit_base_r26_s32_224", "test_vit", "iformer_s", "caformer_s18", "lowformer_b0", "efficientvim_m1", "nf_regnet_b0", "crossvit_9_240",
)  # fmt: skip


def _timm() -> Iterator[tuple[str, Make]]:
    for name in TIMM:
        yield f"timm:{name}", lambda name=name: _timm_network(name)


SEGMENTATION = (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Linknet",
    "MAnet",
    "PAN",
    "UPerNet",
    "Segformer",
)


def _segmentation() -> Iterator[tuple[str, Make]]:
    for name in SEGMENTATION:
        yield f"segmentation-models:{name}", lambda name=name: _segmentation_network(name, "resnet18")
    for encoder in (
        "efficientnet-b0",
        "mobilenet_v2",
        "mit_b0",
        "timm-regnetx_002",
        "densenet121",
        "vgg11_bn",
        "dpn68",
        "se_resnet50",
        "xception",
    ):
        name = "Unet" if encoder not in ("mit_b0", "xception") else "FPN"
        yield (
            f"segmentation-models:{name}-{encoder}",
            lambda name=name, encoder=encoder: _segmentation_network(name, encoder),
        )


def _segmentation_network(name: str, encoder: str) -> BuiltNetwork:
    import segmentation_models_pytorch as smp

    return getattr(smp, name)(encoder, encoder_weights=None, classes=3), torch.randn(
        2, 3, 128 if name == "PAN" else 64, 128 if name == "PAN" else 64
    )


CHANNELS = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
LATENT = torch.randn(2, 4, 8, 8)
STEP = torch.tensor([3, 7])
TEXT = torch.randn(2, 5, 32)
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


def _down_up(cross: str) -> dict[str, Any]:
    return {
        "down_block_types": (f"{cross}DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", f"{cross}UpBlock2D"),
        **CHANNELS,
    }


def _coder() -> dict[str, Any]:
    return {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, **CHANNELS}


ATTENTION = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    **CHANNELS,
}
FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    **HEADS,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
CROSS = {"cross_attention_dim": 32, "attention_head_dim": 4}
VIDEO = torch.randn(2, 4, 3, 8, 8)
DIFFUSERS: dict[str, tuple[dict[str, Any], Any]] = {
    "UNet2DModel": ({"sample_size": 16, "in_channels": 3, "out_channels": 3, **ATTENTION}, (torch.randn(2, 3, 16, 16), STEP)),
    "UNet2DConditionModel": ({"sample_size": 8, **_down_up(cross="CrossAttn"), **CROSS}, (LATENT, STEP, TEXT)),
    "UNet3DConditionModel": (
        {"sample_size": 8, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), **CHANNELS, **CROSS, "attention_head_dim": 8},
        (VIDEO, STEP, TEXT)),
    "ControlNetModel": (
        {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), **CHANNELS, **CROSS, "conditioning_embedding_out_channels": (8, 16)},
        (LATENT, STEP, TEXT, torch.randn(2, 3, 16, 16))),
    "AutoencoderKL": (_coder(), torch.randn(2, 3, 16, 16)),
    "VQModel": ({**_coder(), "latent_channels": 3, "num_vq_embeddings": 32}, torch.randn(2, 3, 16, 16)),
    "AutoencoderTiny": ({"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16), "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}, torch.randn(2, 3, 16, 16)),
    "AsymmetricAutoencoderKL": ({"down_block_types": ("DownEncoderBlock2D",) * 2, "down_block_out_channels": (16, 32), "up_block_types": ("UpDecoderBlock2D",) * 2, "up_block_out_channels": (16, 32), "norm_num_groups": 8}, torch.randn(2, 3, 16, 16)),
    "AutoencoderDC": ({"attention_head_dim": 8, "encoder_block_out_channels": (16, 32), "decoder_block_out_channels": (16, 32), "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1), "encoder_block_types": ("ResBlock", "EfficientViTBlock"), "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_qkv_multiscales": ((), (5,)), "decoder_qkv_multiscales": ((), (5,)), "latent_channels": 4}, torch.randn(2, 3, 16, 16)),
    "AutoencoderOobleck": ({"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2], "decoder_channels": 8, "decoder_input_channels": 4, "audio_channels": 2}, torch.randn(2, 2, 64)),
    "AutoencoderKLTemporalDecoder": ({"down_block_types": ("DownEncoderBlock2D",), "block_out_channels": (32,), "layers_per_block": 1}, {"sample": torch.randn(2, 3, 16, 16), "num_frames": 1}),
    "DiTTransformer2DModel": ({**HEADS, "sample_size": 8, "num_layers": 2, "norm_num_groups": 8, "num_embeds_ada_norm": 10}, {"hidden_states": LATENT, "timestep": STEP, "class_labels": STEP}),
    "PixArtTransformer2DModel": ({**HEADS, "sample_size": 8, "num_layers": 2, "norm_num_groups": 8, "cross_attention_dim": 32, "caption_channels": 32}, {"hidden_states": LATENT, "encoder_hidden_states": TEXT, "timestep": STEP, "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}),
    "SD3Transformer2DModel": ({**HEADS, "sample_size": 8, "in_channels": 4, "num_layers": 2, "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 32, "out_channels": 4, "pos_embed_max_size": 8}, {"hidden_states": LATENT, "encoder_hidden_states": TEXT, "pooled_projections": torch.randn(2, 32), "timestep": STEP}),
    "FluxTransformer2DModel": (FLUX, {"hidden_states": torch.randn(2, 16, 16), "encoder_hidden_states": TEXT, "pooled_projections": torch.randn(2, 32), "timestep": torch.tensor([0.3, 0.7]), "img_ids": torch.rand(16, 3), "txt_ids": torch.zeros(5, 3)}),
    "AuraFlowTransformer2DModel": ({"sample_size": 8, **HEADS, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "joint_attention_dim": 32, "caption_projection_dim": 32, "pos_embed_max_size": 64}, {"hidden_states": LATENT, "encoder_hidden_states": TEXT, "timestep": torch.tensor([0.3, 0.7])}),
    "SanaTransformer2DModel": ({"in_channels": 4, "out_channels": 4, **HEADS, "num_layers": 1, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 32, "sample_size": 8}, {"hidden_states": LATENT, "encoder_hidden_states": TEXT, "timestep": STEP}),
    "LuminaNextDiT2DModel": ({"sample_size": 8, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": 32}, {"hidden_states": LATENT, "timestep": torch.tensor([0.3, 0.7]), "encoder_hidden_states": TEXT, "encoder_mask": torch.ones(2, 5), "image_rotary_emb": torch.polar(torch.ones(384, 384, 8), torch.rand(384, 384, 8)), "cross_attention_kwargs": {}}),
    "CogVideoXTransformer3DModel": ({**HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 1, "text_embed_dim": 32, "sample_width": 8, "sample_height": 8, "sample_frames": 9, "max_text_seq_length": 5, "time_embed_dim": 16}, {"hidden_states": torch.randn(2, 3, 4, 8, 8), "encoder_hidden_states": TEXT, "timestep": STEP}),
    "WanTransformer3DModel": ({"patch_size": (1, 2, 2), **HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 32, "freq_dim": 16, "ffn_dim": 64, "num_layers": 1}, {"hidden_states": VIDEO, "timestep": STEP, "encoder_hidden_states": TEXT}),
    "LTXVideoTransformer3DModel": ({"in_channels": 4, "out_channels": 4, **HEADS, "num_layers": 1, "cross_attention_dim": 32, "caption_channels": 32}, {"hidden_states": torch.randn(2, 12, 4), "encoder_hidden_states": TEXT, "timestep": STEP, "encoder_attention_mask": torch.ones(2, 5), "num_frames": 3, "height": 2, "width": 2}),
    "MochiTransformer3DModel": ({"patch_size": 2, **HEADS, "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4, "text_embed_dim": 32, "time_embed_dim": 16, "max_sequence_length": 8}, {"hidden_states": VIDEO, "encoder_hidden_states": TEXT, "timestep": STEP, "encoder_attention_mask": torch.ones(2, 5, dtype=torch.bool)}),
    "PriorTransformer": ({**HEADS, "num_layers": 1, "embedding_dim": 32, "num_embeddings": 5, "additional_embeddings": 4}, {"hidden_states": torch.randn(2, 32), "timestep": STEP, "proj_embedding": torch.randn(2, 32), "encoder_hidden_states": TEXT}),
    "StableAudioDiTModel": ({"sample_size": 16, "in_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "num_key_value_attention_heads": 1, "out_channels": 4, "cross_attention_dim": 32, "time_proj_dim": 16, "global_states_input_dim": 32, "cross_attention_input_dim": 32}, {"hidden_states": torch.randn(2, 4, 16), "timestep": torch.tensor([0.3, 0.7]), "encoder_hidden_states": TEXT, "global_hidden_states": torch.randn(2, 1, 32)}),
    "UVit2DModel": ({"hidden_size": 32, "cond_embed_dim": 32, "micro_cond_encode_dim": 4, "micro_cond_embed_dim": 20, "encoder_hidden_size": 32, "vocab_size": 32, "codebook_size": 30, "in_channels": 32, "block_out_channels": 32, "num_res_blocks": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "sample_size": 8, "block_num_heads": 2}, {"input_ids": torch.randint(0, 30, (2, 8, 8)), "encoder_hidden_states": TEXT, "pooled_text_emb": torch.randn(2, 32), "micro_conds": torch.rand(2, 5)}),
}  # fmt: skip


def _diffusers() -> Iterator[tuple[str, Make]]:
    for name, (options, example) in DIFFUSERS.items():
        yield (
            f"diffusers:{name}",
            lambda name=name, options=options, example=example: (_diffuser(name, options), example),
        )


def _diffuser(name: str, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = getattr(import_module("diffusers"), name)(**options)
    return network


def _from(package: str, name: str, options: dict[str, Any], example: Any) -> Make:
    """Return a builder of a class by its dotted place."""
    return lambda: (getattr(import_module(package), name)(**options), example)


IMAGE = torch.randn(2, 3, 32, 32)
VOLUME = torch.randn(2, 1, 32, 32, 32)
TOKENS = torch.arange(32).reshape(2, 16) % 100 + 3
FEATURES = torch.randn(2, 16, 32)
SMALL_VIT = {"image_size": 32, "patch_size": 8, "num_classes": 4, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
OTHERS: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "monai:UNet": ("monai.networks.nets", "UNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 1}, VOLUME),
    "monai:BasicUNet": ("monai.networks.nets", "BasicUNet", {"spatial_dims": 3, "features": (8, 8, 16, 16, 32, 8)}, VOLUME),
    "monai:SegResNet": ("monai.networks.nets", "SegResNet", {"init_filters": 8}, VOLUME),
    "monai:UNETR": ("monai.networks.nets", "UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 32, "feature_size": 8, "hidden_size": 32, "mlp_dim": 64, "num_heads": 4}, VOLUME),
    "monai:SwinUNETR": ("monai.networks.nets", "SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 2)}, torch.randn(2, 1, 64, 64, 64)),
    "monai:DynUNet": ("monai.networks.nets", "DynUNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}, VOLUME),
    "monai:AttentionUnet": ("monai.networks.nets", "AttentionUnet", {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}, IMAGE),
    "monai:DenseNet": ("monai.networks.nets", "DenseNet", {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)}, IMAGE),
    "monai:AutoEncoder": ("monai.networks.nets", "AutoEncoder", {"spatial_dims": 2, "in_channels": 3, "out_channels": 3, "channels": (8, 16), "strides": (2, 2)}, IMAGE),
    "monai:DiffusionModelUNet": ("monai.networks.nets", "DiffusionModelUNet", {"spatial_dims": 2, "in_channels": 3, "out_channels": 3, "channels": (16, 32), "attention_levels": (False, True), "num_head_channels": 8, "norm_num_groups": 8, "num_res_blocks": 1}, (IMAGE, STEP)),
    "kornia:TinyViT": ("kornia.models.tiny_vit", "TinyViT", {"img_size": 64, "num_classes": 4, "embed_dims": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_sizes": [4, 4, 4, 4]}, torch.randn(2, 3, 64, 64)),
    "vit-pytorch:SimpleViT": ("vit_pytorch", "SimpleViT", SMALL_VIT, IMAGE),
    "vit-pytorch:CaiT": ("vit_pytorch.cait", "CaiT", {**SMALL_VIT, "cls_depth": 1}, IMAGE),
    "vit-pytorch:DeepViT": ("vit_pytorch.deepvit", "DeepViT", SMALL_VIT, IMAGE),
    "vit-pytorch:T2TViT": ("vit_pytorch.t2t", "T2TViT", {"dim": 32, "image_size": 32, "depth": 2, "heads": 2, "mlp_dim": 64, "num_classes": 4, "t2t_layers": ((3, 2), (3, 2))}, IMAGE),
    "vit-pytorch:CvT": ("vit_pytorch.cvt", "CvT", {"num_classes": 4, "s1_emb_dim": 16, "s2_emb_dim": 32, "s3_emb_dim": 32, "s2_heads": 2, "s3_heads": 2, "s3_depth": 1, "s2_depth": 1}, IMAGE),
    "vit-pytorch:PiT": ("vit_pytorch.pit", "PiT", {**SMALL_VIT, "depth": (1, 1)}, IMAGE),
    "vit-pytorch:MaxViT": ("vit_pytorch.max_vit", "MaxViT", {"num_classes": 4, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 1), "window_size": 4}, IMAGE),
    "vit-pytorch:CCT": ("vit_pytorch.cct", "CCT", {"img_size": 32, "embedding_dim": 32, "n_conv_layers": 1, "num_layers": 2, "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 4, "positional_embedding": "learnable"}, IMAGE),
    "vit-pytorch:RegionViT": ("vit_pytorch.regionvit", "RegionViT", {"dim": (16, 16, 32, 32), "depth": (1, 1, 1, 1), "window_size": 4, "num_classes": 4}, torch.randn(2, 3, 128, 128)),
    "vit-pytorch:PatchDropoutViT": ("vit_pytorch.vit_with_patch_dropout", "ViT", {**SMALL_VIT, "patch_dropout": 0.0}, IMAGE),
    "x-transformers:Encoder": ("newer_builders", "x_encoder", {}, TOKENS),
    "x-transformers:Decoder": ("newer_builders", "x_decoder", {}, TOKENS),
    "x-transformers:ContinuousEncoder": ("newer_builders", "x_continuous", {}, FEATURES),
    "denoising-diffusion:Unet": ("denoising_diffusion_pytorch", "Unet", {"dim": 16, "dim_mults": (1, 2), "flash_attn": False, "attn_heads": 2, "attn_dim_head": 8}, (IMAGE, STEP)),
    "denoising-diffusion:Unet1D": ("denoising_diffusion_pytorch", "Unet1D", {"dim": 16, "dim_mults": (1, 2), "channels": 4, "attn_heads": 2, "attn_dim_head": 8}, (torch.randn(2, 4, 32), STEP)),
    "open-clip:CLIP": ("open_clip.model", "CLIP", {"embed_dim": 32, "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 32, "head_width": 16}, "text_cfg": {"context_length": 16, "vocab_size": 128, "width": 32, "heads": 2, "layers": 2}}, (IMAGE, TOKENS)),
    "open-clip:CoCa": ("open_clip.coca_model", "CoCa", {"embed_dim": 32, "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 32, "head_width": 16, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}, "text_cfg": {"context_length": 16, "vocab_size": 128, "width": 32, "heads": 2, "layers": 2, "embed_cls": True, "output_tokens": True}, "multimodal_cfg": {"context_length": 16, "vocab_size": 128, "width": 32, "heads": 2, "layers": 2}}, (IMAGE, TOKENS)),
    "perceiver:Perceiver": ("perceiver_pytorch", "Perceiver", {"num_freq_bands": 4, "depth": 2, "max_freq": 10.0, "input_channels": 3, "num_latents": 8, "latent_dim": 32, "cross_heads": 1, "latent_heads": 2, "cross_dim_head": 16, "latent_dim_head": 16, "num_classes": 4, "self_per_cross_attn": 1}, torch.randn(2, 8, 8, 3)),
    "performer:PerformerLM": ("performer_pytorch", "PerformerLM", {"num_tokens": 128, "max_seq_len": 16, "dim": 32, "depth": 2, "heads": 2, "dim_head": 16}, TOKENS),
    "linformer:LinformerLM": ("linformer", "LinformerLM", {"num_tokens": 128, "dim": 32, "seq_len": 16, "depth": 2, "heads": 2, "k": 4}, TOKENS),
    "conformer:Conformer": ("conformer", "Conformer", {"dim": 32, "depth": 2, "dim_head": 16, "heads": 2}, FEATURES),
    "iTransformer:iTransformer": ("iTransformer", "iTransformer", {"num_variates": 5, "lookback_len": 24, "depth": 2, "dim": 32, "pred_length": (6,), "dim_head": 16, "heads": 2}, torch.randn(2, 24, 5)),
    "tab-transformer:FTTransformer": ("tab_transformer_pytorch", "FTTransformer", {"categories": (5, 6, 4), "num_continuous": 4, "dim": 32, "depth": 2, "heads": 2, "dim_head": 16}, (torch.randint(0, 4, (2, 3)), torch.randn(2, 4))),
    "rtdl:FTTransformer": ("newer_builders", "rtdl_transformer", {}, (torch.randn(2, 4), torch.randint(0, 4, (2, 3)))),
    "rtdl:ResNet": ("rtdl_revisiting_models", "ResNet", {"d_in": 8, "d_out": 2, "n_blocks": 2, "d_block": 32, "d_hidden_multiplier": 2.0, "dropout1": 0.1, "dropout2": 0.0}, torch.randn(4, 8)),
    "efficientnet-pytorch:b0": ("newer_builders", "lukemelas_efficientnet", {}, torch.randn(2, 3, 64, 64)),
    "facenet:InceptionResnetV1": ("facenet_pytorch", "InceptionResnetV1", {"classify": True, "num_classes": 4}, torch.randn(2, 3, 160, 160)),
    "demucs:Demucs": ("demucs.demucs", "Demucs", {"sources": ["a", "b"], "channels": 4, "depth": 2, "resample": False, "lstm_layers": 1, "dconv_mode": 0, "normalize": False}, torch.randn(2, 2, 1024)),
    "egnn:EGNN": ("egnn_pytorch", "EGNN", {"dim": 16, "edge_dim": 4}, (torch.randn(2, 6, 16), torch.randn(2, 6, 3), torch.randn(2, 6, 6, 4))),
    "pytorch-tcn:TCN": ("pytorch_tcn", "TCN", {"num_inputs": 6, "num_channels": [16, 16], "kernel_size": 3}, torch.randn(2, 6, 20)),
    "torchvision:raft_small": ("newer_builders", "flow_network", {}, (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))),
}  # fmt: skip


def _others() -> Iterator[tuple[str, Make]]:
    for name, (package, entry, options, example) in OTHERS.items():
        if package == "newer_builders" or find_spec(package.partition(".")[0]) is not None:
            yield name, _from(package, entry, options, example)


WEIGHTS = torch.rand(10)
CONVS: dict[str, dict[str, Any]] = {
    "ChebConv": {"K": 3}, "ARMAConv": {"num_stacks": 2, "num_layers": 2}, "TAGConv": {}, "GraphConv": {}, "GATv2Conv": {"heads": 2}, "GatedGraphConv": {}, "ResGatedGraphConv": {},
    "LEConv": {}, "ClusterGCNConv": {}, "FiLMConv": {}, "SuperGATConv": {}, "GENConv": {}, "APPNP": {"K": 3, "alpha": 0.1}, "MFConv": {}, "FeaStConv": {"heads": 2},
    "GeneralConv": {}, "EGConv": {"num_heads": 4, "num_bases": 2}, "PDNConv": {}, "AntiSymmetricConv": {}, "SSGConv": {"alpha": 0.1}, "FAConv": {}, "WLConvContinuous": {}, "LGConv": {},
}  # fmt: skip


def _graphs() -> Iterator[tuple[str, Make]]:
    for name, options in CONVS.items():
        yield f"pyg:{name}", lambda name=name, options=options: _graph_network(name, options)
    for name in (
        "graph_unet",
        "jumping_knowledge",
        "graph_transformer",
        "relational",
        "edge_features",
        "pooled_graphs",
        "set_pooling",
        "graph_norms",
        "jumping_lstm",
        "attentive_fp",
        "mixed_aggregation",
    ):
        yield f"pyg:{name}", lambda name=name: getattr(import_module("newer_builders"), name)()


class GraphLayers(nn.Module):
    """Two layers of message passing."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__()
        layer = getattr(import_module("torch_geometric.nn"), name)
        self.first, self.last = (
            nn.Linear(10, 32),
            nn.Linear(32 * options.get("heads", 1) if name == "GATv2Conv" else 32, 4),
        )
        if name in ("GatedGraphConv",):
            self.layer = layer(32, 2)
        elif name in ("APPNP", "WLConvContinuous", "LGConv"):
            self.layer = layer(**options)
        elif name in ("AntiSymmetricConv", "FAConv"):
            self.layer = layer(32, **options)
        elif name == "PDNConv":
            self.layer = layer(32, 32, edge_dim=3, hidden_channels=8)
        else:
            self.layer = layer(32, 32, **options)
        self.kind = name

    def forward(self, x: torch.Tensor, edges: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return scores of the nodes."""
        h = self.first(x).relu()
        if self.kind == "FAConv":
            h = self.layer(h, h, edges)
        else:
            h = self.layer(h, edges) if weights is None else self.layer(h, edges, weights)
        scores: torch.Tensor = self.last(h.relu())
        return scores


def _graph_network(name: str, options: dict[str, Any]) -> BuiltNetwork:
    example: tuple[torch.Tensor, ...] = (torch.randn(8, 10), EDGES)
    if name in ("GraphConv", "TAGConv"):
        example = (*example, WEIGHTS)
    if name == "PDNConv":
        example = (*example, torch.rand(10, 3))
    return GraphLayers(name, options), example


PACKAGES = {
    "timm": _timm,
    "segmentation_models_pytorch": _segmentation,
    "diffusers": _diffusers,
    "torch_geometric": _graphs,
}


def newer_package_networks() -> Iterator[tuple[str, Make]]:
    """Yield networks of the packages that are installed."""
    for package, networks in PACKAGES.items():
        if find_spec(package) is not None:
            yield from networks()
    yield from _others()
