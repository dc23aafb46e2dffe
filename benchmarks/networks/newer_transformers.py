"""Networks of transformers that `networks.py` does not have: detection, audio, time series, vision, text and two modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from networks import DECODER, IDS, SMALL, BuiltNetwork, _transformers_network

IMAGE = {"pixel_values": torch.randn(2, 3, 64, 64)}
SOUND = {"input_values": torch.randn(2, 800)}
BOTH = {**IDS, "decoder_input_ids": IDS["input_ids"]}
TWO_STACKS = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 2, "forced_eos_token_id": 2, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
DETECTOR = {
    **TWO_STACKS,
    "num_queries": 10,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}
WAVE = {
    **SMALL, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0, "layerdrop": 0.0,
}  # fmt: skip
MODEL = {"d_model": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}
VIT = {**SMALL, "image_size": 64, "patch_size": 16}
SERIES = {
    "prediction_length": 4, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 1, "d_model": 16, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
PAST = {
    "past_values": torch.randn(2, 14), "past_time_features": torch.randn(2, 14, 1), "past_observed_mask": torch.ones(2, 14),
    "future_values": torch.randn(2, 4), "future_time_features": torch.randn(2, 4, 1),
}  # fmt: skip


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _rt_resnet() -> Any:
    from transformers import RTDetrResNetConfig

    return RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def _swin() -> Any:
    from transformers import SwinConfig

    return SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


Options = dict[str, Any] | Callable[[], dict[str, Any]]
Example = dict[str, Any]
DETECTION: dict[str, tuple[Options, Example]] = {
    "DetrForObjectDetection": (lambda: {**DETECTOR, "backbone_config": _resnet()}, IMAGE),
    "DetrForSegmentation": (lambda: {**DETECTOR, "d_model": 128, "encoder_attention_heads": 8, "decoder_attention_heads": 8, "backbone_config": _resnet()}, IMAGE),
    "ConditionalDetrForObjectDetection": (lambda: {**DETECTOR, "backbone_config": _resnet()}, IMAGE),
    "TableTransformerForObjectDetection": (lambda: {**DETECTOR, "backbone_config": _resnet()}, IMAGE),
    "DabDetrForObjectDetection": (lambda: {**DETECTOR, "hidden_size": 64, "backbone_config": _resnet()}, IMAGE),
    "DeformableDetrForObjectDetection": (lambda: {**DETECTOR, "num_feature_levels": 4, "backbone_config": _resnet()}, IMAGE),
    "RTDetrForObjectDetection": (
        lambda: {"backbone_config": _rt_resnet(), "d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "decoder_layers": 2, "num_queries": 10, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "num_denoising": 0,
         "encoder_in_channels": [32, 32, 64], "decoder_in_channels": [32, 32, 32]}, IMAGE),
    "RTDetrV2ForObjectDetection": (
        lambda: {"backbone_config": _rt_resnet(), "d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         "decoder_layers": 2, "num_queries": 10, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "num_denoising": 0,
         "encoder_in_channels": [32, 32, 64], "decoder_in_channels": [32, 32, 32]}, IMAGE),
    "YolosForObjectDetection": ({**SMALL, "image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 8}, IMAGE),
    "OwlViTForObjectDetection": (
        {"text_config": {**SMALL, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}, "vision_config": VIT, "projection_dim": 64},
        {"input_ids": torch.arange(16).reshape(4, 4) % 100 + 3, **IMAGE}),
    "Mask2FormerForUniversalSegmentation": (
        lambda: {"backbone_config": _swin(), "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64,
         "encoder_layers": 2, "decoder_layers": 2, "num_attention_heads": 4, "dim_feedforward": 64, "num_queries": 8}, IMAGE),
    "MaskFormerForInstanceSegmentation": (
        lambda: {"backbone_config": _swin(), "fpn_feature_size": 32, "mask_feature_size": 32}, IMAGE),
}  # fmt: skip
AUDIO: dict[str, tuple[Options, Example]] = {
    "WavLMForSequenceClassification": (WAVE, SOUND),
    "HubertForCTC": (WAVE, SOUND),
    "UniSpeechSatForCTC": (WAVE, SOUND),
    "Data2VecAudioForCTC": ({**WAVE, "conv_pos_kernel_size": 5}, SOUND),
    "SEWForCTC": ({**WAVE, "squeeze_factor": 2}, SOUND),
    "Wav2Vec2ConformerForCTC": (WAVE, SOUND),
    "Wav2Vec2BertForCTC": (
        {**SMALL, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 5, "mask_time_prob": 0.0},
        {"input_features": torch.randn(2, 20, 16)}),
    "ASTForAudioClassification": ({**SMALL, "num_mel_bins": 32, "max_length": 64, "patch_size": 16}, {"input_values": torch.randn(2, 64, 32)}),
    "EncodecModel": ({"num_filters": 8, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16}, {"input_values": torch.randn(2, 1, 960)}),
    "DacModel": (
        {"encoder_hidden_size": 8, "decoder_hidden_size": 64, "downsampling_ratios": [2, 4], "upsampling_ratios": [4, 2], "n_codebooks": 2,
         "codebook_size": 32}, {"input_values": torch.randn(2, 1, 256)}),
    "MimiModel": (
        {"num_filters": 8, "hidden_size": 32, "codebook_size": 32, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64, "num_quantizers": 4,
         "num_semantic_quantizers": 1, "upsample_groups": 32}, {"input_values": torch.randn(2, 1, 3840)}),
    "Speech2TextForConditionalGeneration": (
        {**TWO_STACKS, "input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64, "max_target_positions": 64},
        {"input_features": torch.randn(2, 40, 16), "decoder_input_ids": IDS["input_ids"]}),
    "WhisperForConditionalGeneration": (
        {**TWO_STACKS, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32},
        {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": IDS["input_ids"]}),
    "MoonshineForConditionalGeneration": (
        {**SMALL, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4,
         "decoder_num_attention_heads": 4},
        {"input_values": torch.randn(2, 4000), "decoder_input_ids": IDS["input_ids"]}),
    "SpeechT5ForTextToSpeech": (
        {"hidden_size": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 128, "speaker_embedding_dim": 16, "num_mel_bins": 8,
         "speech_decoder_prenet_units": 16, "speech_decoder_postnet_units": 16, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
        {**IDS, "decoder_input_values": torch.randn(2, 6, 8), "speaker_embeddings": torch.randn(2, 16)}),
    "VitsModel": (
        {**SMALL, "ffn_dim": 64, "flow_size": 32, "spectrogram_bins": 17, "upsample_initial_channel": 32, "upsample_rates": [4, 4],
         "upsample_kernel_sizes": [8, 8], "wavenet_dilation_rate": 1, "posterior_encoder_num_wavenet_layers": 2, "prior_encoder_num_wavenet_layers": 2,
         "depth_separable_num_layers": 2, "duration_predictor_num_flows": 2, "prior_encoder_num_flows": 2}, IDS),
    "ClapModel": (
        {"text_config": {**SMALL, "pad_token_id": 1}, "audio_config": {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 16, "patch_stride": [4, 4],
          "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2], "window_size": 4, "projection_dim": 32}, "projection_dim": 32},
        {**IDS, "input_features": torch.randn(2, 1, 64, 16)}),
    "UnivNetModel": ({"model_in_channels": 8, "model_hidden_channels": 8, "num_mel_bins": 8, "kernel_predictor_hidden_channels": 8}, {"input_features": torch.randn(2, 6, 8), "noise_sequence": torch.randn(2, 6, 8)}),
    "ParakeetForCTC": ({"vocab_size": 64, "encoder_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "subsampling_conv_channels": 16, "num_mel_bins": 16, "layerdrop": 0.0}}, {"input_features": torch.randn(2, 40, 16)}),
}  # fmt: skip
TIME_SERIES: dict[str, tuple[Options, Example]] = {
    "InformerForPrediction": (SERIES, PAST),
    "AutoformerForPrediction": ({**SERIES, "moving_average": 5}, PAST),
    "TimeSeriesTransformerForPrediction": (SERIES, PAST),
    "PatchTSTForPrediction": (
        {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64,
         "num_hidden_layers": 2, "prediction_length": 8}, {"past_values": torch.randn(2, 32, 3)}),
    "PatchTSMixerForPrediction": (
        {"context_length": 32, "patch_length": 8, "patch_stride": 8, "num_input_channels": 3, "d_model": 16, "num_layers": 2, "prediction_length": 8},
        {"past_values": torch.randn(2, 32, 3)}),
    "TimesFmModelForPrediction": (
        {"patch_length": 8, "context_length": 32, "horizon_length": 8, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "num_attention_heads": 4,
         "num_hidden_layers": 2}, {"past_values": torch.randn(2, 32), "freq": torch.zeros(2, dtype=torch.long)}),
}  # fmt: skip
VISION: dict[str, tuple[Options, Example]] = {
    "VideoMAEForVideoClassification": ({**VIT, "num_frames": 4}, {"pixel_values": torch.randn(2, 4, 3, 64, 64)}),
    "TimesformerForVideoClassification": ({**VIT, "num_frames": 4}, {"pixel_values": torch.randn(2, 4, 3, 64, 64)}),
    "VivitForVideoClassification": ({**VIT, "num_frames": 4, "tubelet_size": [2, 16, 16]}, {"pixel_values": torch.randn(2, 4, 3, 64, 64)}),
    "Dinov2ForImageClassification": ({**VIT, "mlp_ratio": 2}, IMAGE),
    "DINOv3ViTModel": ({**VIT, "num_register_tokens": 2}, IMAGE),
    "SegformerForSemanticSegmentation": ({"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 32}, IMAGE),
    "DPTForDepthEstimation": ({**VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32}, IMAGE),
    "GLPNForDepthEstimation": ({"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 32}, IMAGE),
    "PvtV2ForImageClassification": ({"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}, IMAGE),
    "MobileViTV2ForImageClassification": ({"image_size": 64, "width_multiplier": 0.5}, IMAGE),
    "SwiftFormerForImageClassification": ({"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}, IMAGE),
    "EfficientNetForImageClassification": ({"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}, IMAGE),
    "BitForImageClassification": ({"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 1]}, IMAGE),
    "ViTMAEForPreTraining": ({**VIT, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64, "mask_ratio": 0.5}, {**IMAGE, "noise": torch.rand(2, 16)}),
    "ViTMSNForImageClassification": (VIT, IMAGE),
    "BeitForImageClassification": (VIT, IMAGE),
    "PoolFormerForImageClassification": ({"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}, IMAGE),
    "FocalNetForImageClassification": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]}, IMAGE),
    "UperNetForSemanticSegmentation": (lambda: {"backbone_config": _swin(), "hidden_size": 32, "pool_scales": [1, 2], "auxiliary_in_channels": 64, "auxiliary_channels": 16}, IMAGE),
    "SamModel": (
        {"vision_config": {**SMALL, "image_size": 64, "patch_size": 16, "output_channels": 16, "mlp_dim": 64, "num_pos_feats": 8, "global_attn_indexes": [1], "window_size": 2},
         "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
         "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}},
        {**IMAGE, "input_points": torch.rand(2, 1, 2, 2) * 60}),
    "Swin2SRForImageSuperResolution": ({"image_size": 16, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, {"pixel_values": torch.randn(2, 3, 16, 16)}),
    "PerceiverForImageClassificationLearned": ({"num_latents": 8, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 2, "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "image_size": 16}, {"inputs": torch.randn(2, 3, 16, 16)}),
    "SuperPointForKeypointDetection": ({"encoder_hidden_sizes": [8, 16, 16], "decoder_hidden_size": 16, "keypoint_decoder_dim": 65, "descriptor_decoder_dim": 16}, {"pixel_values": torch.randn(2, 3, 32, 32)}),
    "ZoeDepthForDepthEstimation": (
        lambda: {"backbone_config": {"model_type": "beit", **VIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False, "use_relative_position_bias": True}, "backbone_hidden_size": 64, "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32, "bottleneck_features": 32, "bin_embedding_dim": 16, "num_relative_features": 8, "patch_transformer_hidden_size": 32, "patch_transformer_intermediate_size": 64, "num_attractors": [4, 2, 2, 1]}, IMAGE),
    "DepthAnythingForDepthEstimation": (lambda: {"backbone_config": {"model_type": "dinov2", **VIT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False, "apply_layernorm": True}, "patch_size": 16, "reassemble_hidden_size": 64, "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}, IMAGE),
}  # fmt: skip
TEXT: dict[str, tuple[Options, Example]] = {
    "Mamba2ForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8, "num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "chunk_size": 8}, IDS),
    "FalconH1ForCausalLM": ({**DECODER, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}, IDS),
    "BambaForCausalLM": ({**DECODER, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8, "attn_layer_indices": [1]}, IDS),
    "Zamba2ForCausalLM": ({**DECODER, "num_hidden_layers": 3, "num_key_value_heads": 4, "mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 8, "layers_block_type": ["mamba", "hybrid", "mamba"], "hybrid_layer_ids": [1], "adapter_rank": 8, "num_mem_blocks": 1}, IDS),
    "PegasusForConditionalGeneration": (TWO_STACKS, BOTH),
    "MarianMTModel": (TWO_STACKS, BOTH),
    "M2M100ForConditionalGeneration": (TWO_STACKS, BOTH),
    "BlenderbotForConditionalGeneration": (TWO_STACKS, BOTH),
    "LEDForConditionalGeneration": ({**TWO_STACKS, "attention_window": 4, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}, BOTH),
    "LongformerForSequenceClassification": ({**SMALL, "attention_window": 8, "pad_token_id": 1}, IDS),
    "BigBirdForSequenceClassification": ({**SMALL, "attention_type": "original_full"}, IDS),
    "XLNetForSequenceClassification": ({**MODEL, "d_inner": 128}, IDS),
    "FunnelForSequenceClassification": ({"vocab_size": 128, "block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128}, IDS),
    "MPNetForMaskedLM": (SMALL, IDS),
    "FNetForMaskedLM": (SMALL, IDS),
    "ConvBertForSequenceClassification": ({**SMALL, "embedding_size": 64, "conv_kernel_size": 3, "head_ratio": 2, "num_groups": 1}, IDS),
    "RoFormerForMaskedLM": ({**SMALL, "embedding_size": 64}, IDS),
    "RemBertForMaskedLM": ({**SMALL, "input_embedding_size": 32, "output_embedding_size": 48}, IDS),
    "NystromformerForMaskedLM": ({**SMALL, "segment_means_seq_len": 16, "num_landmarks": 4}, IDS),
    "YosoForMaskedLM": ({**SMALL, "use_expectation": True}, IDS),
    "ModernBertForMaskedLM": ({**SMALL, "pad_token_id": 0}, IDS),
    "SqueezeBertForSequenceClassification": ({**SMALL, "embedding_size": 64}, IDS),
    "MobileBertForSequenceClassification": ({**SMALL, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32}, IDS),
    "LayoutLMForTokenClassification": (SMALL, {**IDS, "bbox": torch.tensor([10, 20, 30, 60]).repeat(2, 16, 1)}),
    "TapasForSequenceClassification": ({**SMALL, "num_labels": 2}, {**IDS, "token_type_ids": torch.zeros(2, 16, 7, dtype=torch.long)}),
    "EsmForMaskedLM": ({**SMALL, "pad_token_id": 1, "mask_token_id": 2, "position_embedding_type": "rotary"}, IDS),
    "XGLMForCausalLM": ({"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "vocab_size": 128, "pad_token_id": 1}, IDS),
    "GPTNeoForCausalLM": ({"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8, "vocab_size": 128}, IDS),
    "GPTJForCausalLM": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "vocab_size": 128}, IDS),
    "GPTBigCodeForCausalLM": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}, IDS),
    "BloomForCausalLM": ({"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}, IDS),
    "FalconForCausalLM": (SMALL, IDS),
    "MptForCausalLM": ({"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 128}, IDS),
    "StableLmForCausalLM": (DECODER, IDS),
    "CohereForCausalLM": (DECODER, IDS),
    "Olmo2ForCausalLM": (DECODER, IDS),
    "Gemma2ForCausalLM": ({**DECODER, "head_dim": 16}, IDS),
    "Gemma3ForCausalLM": ({**DECODER, "head_dim": 16}, IDS),
    "Glm4ForCausalLM": ({**DECODER, "head_dim": 16}, IDS),
    "Phi3ForCausalLM": (DECODER, IDS),
    "GraniteForCausalLM": (DECODER, IDS),
    "MiniCPM3ForCausalLM": ({**DECODER, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16}, IDS),
    "Lfm2ForCausalLM": ({**DECODER, "layer_types": ["conv", "full_attention"]}, IDS),
    "RecurrentGemmaForCausalLM": ({**DECODER, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 8}, IDS),
    "RwkvForCausalLM": ({"hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64, "vocab_size": 128, "context_length": 32}, IDS),
    "xLSTMForCausalLM": ({"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "vocab_size": 128, "chunk_size": 8}, IDS),
    "FalconMambaForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8}, IDS),
    "ProphetNetForConditionalGeneration": (
        {"hidden_size": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
         "num_decoder_attention_heads": 4, "vocab_size": 128, "max_position_embeddings": 64}, BOTH),
    "LongT5ForConditionalGeneration": ({"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128, "local_radius": 4}, BOTH),
    "CanineForSequenceClassification": ({**SMALL, "num_hash_functions": 4, "num_hash_buckets": 64, "local_transformer_stride": 8, "downsampling_rate": 4, "upsampling_kernel_size": 4}, IDS),
    "ReformerForSequenceClassification": ({"hidden_size": 64, "attention_head_size": 16, "num_attention_heads": 4, "feed_forward_size": 128, "vocab_size": 128, "attn_layers": ["local", "local"], "local_attn_chunk_length": 8, "axial_pos_shape": [4, 4], "axial_pos_embds_dim": [32, 32], "is_decoder": False}, IDS),
    "CTRLForSequenceClassification": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "dff": 128, "vocab_size": 128, "pad_token_id": 0}, IDS),
}  # fmt: skip
TWO_MODALITIES: dict[str, tuple[Options, Example]] = {
    "CLIPModel": ({"text_config": {**SMALL, "bos_token_id": 1, "eos_token_id": 2}, "vision_config": VIT, "projection_dim": 32}, {**IDS, **IMAGE}),
    "SiglipModel": ({"text_config": {**SMALL, "max_position_embeddings": 16}, "vision_config": VIT}, {**IDS, **IMAGE}),
    "BlipForImageTextRetrieval": ({"text_config": {**SMALL, "encoder_hidden_size": 64, "bos_token_id": 1, "sep_token_id": 2}, "vision_config": VIT, "projection_dim": 32, "image_text_hidden_size": 32}, {**IDS, **IMAGE}),
    "ViltForImageAndTextRetrieval": ({**SMALL, "image_size": 64, "patch_size": 16, "max_image_length": 16}, {**IDS, **IMAGE, "pixel_mask": torch.ones(2, 64, 64, dtype=torch.long)}),
    "LxmertModel": ({**SMALL, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16}, {**IDS, "visual_feats": torch.randn(2, 4, 16), "visual_pos": torch.rand(2, 4, 4)}),
    "VisualBertModel": ({**SMALL, "visual_embedding_dim": 16}, {**IDS, "visual_embeds": torch.randn(2, 4, 16)}),
    "CLIPSegForImageSegmentation": ({"text_config": {**SMALL, "bos_token_id": 1, "eos_token_id": 2}, "vision_config": {**VIT, "num_hidden_layers": 3}, "projection_dim": 32, "extract_layers": [0, 1], "reduce_dim": 16, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}, {**IDS, **IMAGE}),
    "GitForCausalLM": ({**SMALL, "vision_config": VIT, "num_image_with_embedding": None}, {**IDS, **IMAGE}),
    "FlavaModel": ({"text_config": SMALL, "image_config": VIT, "multimodal_config": {k: v for k, v in SMALL.items() if k != "vocab_size"}, "hidden_size": 64, "projection_dim": 32}, {**IDS, **IMAGE}),
    "GroupViTModel": ({"text_config": {**SMALL, "bos_token_id": 1, "eos_token_id": 2}, "vision_config": {**VIT, "depths": [1, 1, 1], "num_group_tokens": [8, 4, 0], "num_output_groups": [8, 4, 0]}, "projection_dim": 32, "projection_intermediate_dim": 64}, {**IDS, **IMAGE}),
    "Pix2StructForConditionalGeneration": (
        {"text_config": {"hidden_size": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128}, "vision_config": {"hidden_size": 64, "patch_embed_hidden_size": 48, "d_ff": 128, "d_kv": 16, "num_hidden_layers": 2, "num_attention_heads": 4}},
        {"flattened_patches": torch.cat([torch.arange(1, 13).reshape(1, 6, 2).expand(2, 6, 2).float(), torch.randn(2, 6, 48)], -1), "decoder_input_ids": IDS["input_ids"]}),
    "LlavaForConditionalGeneration": (
        {"text_config": {"model_type": "llama", **DECODER}, "vision_config": {"model_type": "clip_vision_model", **VIT}, "image_token_index": 127, "image_seq_length": 16},
        {"input_ids": torch.cat([torch.full((2, 16), 127), IDS["input_ids"]], 1), **IMAGE}),
    "PaliGemmaForConditionalGeneration": (
        {"text_config": {"model_type": "gemma", **DECODER, "head_dim": 16}, "vision_config": {"model_type": "siglip_vision_model", **VIT}, "image_token_index": 127, "projection_dim": 64},
        {"input_ids": torch.cat([torch.full((2, 16), 127), IDS["input_ids"]], 1), **IMAGE}),
    "DecisionTransformerModel": ({"state_dim": 6, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_ep_len": 32}, {"states": torch.randn(2, 5, 6), "actions": torch.randn(2, 5, 3), "rewards": torch.randn(2, 5, 1), "returns_to_go": torch.randn(2, 5, 1), "timesteps": torch.arange(5).expand(2, 5).contiguous(), "attention_mask": torch.ones(2, 5, dtype=torch.long)}),
}  # fmt: skip
FAMILIES = {**DETECTION, **AUDIO, **TIME_SERIES, **VISION, **TEXT, **TWO_MODALITIES}


def newer_transformers_networks() -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield architectures of transformers, built small from configs."""
    for name in FAMILIES:
        yield f"transformers:{name}", lambda name=name: _build(name)


def _build(name: str) -> BuiltNetwork:
    options, example = FAMILIES[name]
    return _transformers_network(name, options() if callable(options) else options), dict(example)
