"""Claim: at least 90 % of the parameters of popular networks, outputs aside, run over an axis that may merge.

A parameter counts if one of its dimensions runs over an axis that may merge. A parameter that is kept because a dimension is that of
an input or an output is left out of the second share. The third one is that of a network of which only the first output
matters, as with ``--outputs``. For the others each reason is printed, with its share. Each network is a line of JSON in
``benchmarks/results/merged_share.jsonl``.

    .venv/bin/pip install -c constraints.txt -e '.[benchmarks]'
    .venv/bin/python benchmarks/networks/merged_share.py [--only SUBSTRING ...] [--zoo] [--outputs NAME ...] [--out FILE]

``--outputs`` names the outputs that matter, as `netgraph coarsen` takes them. Each network runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from networks import EDGES, IDS, IMAGE, SMALL, BuiltNetwork, _transformers_network, all_networks
from torch import nn

RESULTS = Path(__file__).parent.parent / "results" / "merged_share.jsonl"
LIMIT = 200  # seconds for each network
WAVE = {"input_values": torch.randn(2, 800)}
SPEECH = {
    **SMALL, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
TOKENS = {
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, **TOKENS,
}  # fmt: skip
PAIR = {**IDS, "decoder_input_ids": IDS["input_ids"]}
SERIES = {"prediction_length": 6, "context_length": 12, "lags_sequence": [1, 2], "num_time_features": 2, "d_model": 32}
PAST = {
    "past_values": torch.randn(2, 14), "past_time_features": torch.randn(2, 14, 2), "past_observed_mask": torch.ones(2, 14),
    "future_values": torch.randn(2, 6), "future_time_features": torch.randn(2, 6, 2),
}  # fmt: skip
SMALL_TEXT = {**SMALL, "max_position_embeddings": 32}
TRANSFORMERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "WavLMModel": (SPEECH, WAVE),
    "WavLMForCTC": (SPEECH, WAVE),
    "HubertModel": (SPEECH, WAVE),
    "HubertForCTC": (SPEECH, WAVE),
    "Wav2Vec2Model": (SPEECH, WAVE),
    "Wav2Vec2ForCTC": (SPEECH, WAVE),
    "Wav2Vec2ConformerForCTC": (SPEECH, WAVE),
    "SEWForCTC": (SPEECH, WAVE),
    "UniSpeechSatForCTC": (SPEECH, WAVE),
    "VideoMAEForVideoClassification": (
        {**SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4}, {"pixel_values": torch.randn(2, 4, 3, 16, 16)},
    ),
    "VideoMAEModel": ({**SMALL, "image_size": 16, "patch_size": 8, "num_frames": 4}, {"pixel_values": torch.randn(2, 4, 3, 16, 16)}),
    "PegasusForConditionalGeneration": (SEQ2SEQ, PAIR),
    "BartForConditionalGeneration": (SEQ2SEQ, PAIR),
    "BartModel": (SEQ2SEQ, PAIR),
    "MBartForConditionalGeneration": (SEQ2SEQ, PAIR),
    "MarianMTModel": (SEQ2SEQ, PAIR),
    "M2M100ForConditionalGeneration": (SEQ2SEQ, PAIR),
    "BlenderbotForConditionalGeneration": (SEQ2SEQ, PAIR),
    "ProphetNetForConditionalGeneration": (
        {"hidden_size": 64, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
         "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 128, "ngram": 2}, PAIR,
    ),
    "LEDForConditionalGeneration": ({**SEQ2SEQ, "attention_window": 4}, PAIR),
    "BigBirdPegasusForConditionalGeneration": ({**SEQ2SEQ, "attention_type": "original_full"}, PAIR),
    "InformerForPrediction": ({**SERIES, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}, PAST),
    "AutoformerForPrediction": ({**SERIES, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}, PAST),
    "TimeSeriesTransformerForPrediction": ({**SERIES, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}, PAST),
    "PatchTSTForPrediction": (
        {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_hidden_layers": 2, "d_model": 32,
         "num_attention_heads": 4, "ffn_dim": 64, "prediction_length": 6}, {"past_values": torch.randn(2, 32, 3)},
    ),
    "PatchTSMixerForPrediction": (
        {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16, "num_layers": 2, "prediction_length": 6},
        {"past_values": torch.randn(2, 32, 3)},
    ),
    "T5ForConditionalGeneration": ({"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128}, PAIR),
    "T5EncoderModel": ({"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128}, IDS),
    "BertModel": (SMALL_TEXT, IDS),
    "BertForMaskedLM": (SMALL_TEXT, IDS),
    "BertForQuestionAnswering": (SMALL_TEXT, IDS),
    "GPT2LMHeadModel": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 64}, IDS),
    "XLNetLMHeadModel": ({"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "vocab_size": 128}, IDS),
    "LongformerForMaskedLM": ({**SMALL_TEXT, "attention_window": 8}, {"input_ids": IDS["input_ids"], "attention_mask": torch.ones(2, 16)}),
    "FNetForMaskedLM": (SMALL_TEXT, IDS),
    "NystromformerForMaskedLM": ({**SMALL_TEXT, "num_landmarks": 4, "segment_means_seq_len": 16}, IDS),
    "DebertaForMaskedLM": ({**SMALL_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, IDS),
    "MPNetForMaskedLM": (SMALL_TEXT, IDS),
    "RoFormerForMaskedLM": (SMALL_TEXT, IDS),
    "BloomForCausalLM": ({"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}, IDS),
    "FalconForCausalLM": ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}, IDS),
    "MptForCausalLM": ({"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 128}, IDS),
    "ViTForImageClassification": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
    "ViTMAEForPreTraining": ({**SMALL, "image_size": 32, "patch_size": 8, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64}, IMAGE),
    "DeiTForImageClassification": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
    "BeitForImageClassification": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
    "Dinov2ForImageClassification": ({**SMALL, "image_size": 32, "patch_size": 8}, IMAGE),
    "DetrForObjectDetection": (
        {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 10, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "num_labels": 5,
         "backbone_config": {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]}},
        {"pixel_values": torch.randn(2, 3, 64, 64), "pixel_mask": torch.ones(2, 64, 64, dtype=torch.long)},
    ),
    "YolosForObjectDetection": ({**SMALL, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 5}, IMAGE),
    "CLIPModel": (
        {"text_config": {**SMALL_TEXT, "eos_token_id": 2}, "vision_config": {**SMALL, "image_size": 32, "patch_size": 8}, "projection_dim": 32}, {**IDS, **IMAGE},
    ),
    "SiglipModel": ({"text_config": SMALL_TEXT, "vision_config": {**SMALL, "image_size": 32, "patch_size": 8}}, {**IDS, **IMAGE}),
    "SegformerForSemanticSegmentation": (
        {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32, "num_labels": 5},
        {"pixel_values": torch.randn(2, 3, 64, 64)},
    ),
    "DPTForDepthEstimation": (
        {**SMALL, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32}, IMAGE,
    ),
    "SwinForImageClassification": ({"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, IMAGE),
    "Swinv2ForImageClassification": ({"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, IMAGE),
    "ConvNextForImageClassification": ({"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, IMAGE),
    "MambaForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8}, IDS),
    "Mamba2ForCausalLM": (
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8}, IDS,
    ),
    "WhisperForConditionalGeneration": (
        {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32},
        {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": IDS["input_ids"]},
    ),
    "Speech2TextForConditionalGeneration": (
        {**SEQ2SEQ, "input_feat_per_channel": 16, "num_conv_layers": 2, "conv_kernel_sizes": [3, 3], "conv_channels": 32},
        {"input_features": torch.randn(2, 40, 16), "decoder_input_ids": IDS["input_ids"]},
    ),
    "ASTForAudioClassification": ({**SMALL, "patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16}, {"input_values": torch.randn(2, 32, 16)}),
    "EncodecModel": (
        {"num_filters": 8, "hidden_size": 16, "upsampling_ratios": [4, 2], "codebook_size": 32, "codebook_dim": 16, "num_lstm_layers": 1, "target_bandwidths": [100.0], "num_residual_layers": 1,
         "sampling_rate": 8000},
        {"input_values": torch.randn(2, 1, 640)},
    ),
    "VitsModel": (
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64, "flow_size": 32, "spectrogram_bins": 65,
         "upsample_initial_channel": 32, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4], "wavenet_dilation_rate": 1, "prior_encoder_num_flows": 2},
        {"input_ids": IDS["input_ids"] % 60},
    ),
    "DecisionTransformerModel": (
        {"state_dim": 5, "act_dim": 3, "hidden_size": 32, "n_layer": 1, "n_head": 2, "max_ep_len": 50},
        {"states": torch.randn(2, 4, 5), "actions": torch.randn(2, 4, 3), "rewards": torch.randn(2, 4, 1), "returns_to_go": torch.randn(2, 4, 1),
         "timesteps": torch.arange(4).repeat(2, 1), "attention_mask": torch.ones(2, 4)},
    ),
    "PerceiverForMaskedLM": (
        {"d_model": 32, "d_latents": 32, "num_latents": 8, "num_blocks": 1, "num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2,
         "vocab_size": 128, "max_position_embeddings": 16, "qk_channels": 32, "v_channels": 32}, {"inputs": IDS["input_ids"]},
    ),
}  # fmt: skip


class SpectralConv(nn.Module):
    """A Fourier layer on the lowest frequencies with complex weights, as Fourier neural operators have it (Li et al., ICLR 2021)."""

    def __init__(self, n_in: int, n_out: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weights1 = nn.Parameter(torch.randn(n_in, n_out, modes, modes, dtype=torch.cfloat) / n_in)
        self.weights2 = nn.Parameter(torch.randn(n_in, n_out, modes, modes, dtype=torch.cfloat) / n_in)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the lowest frequencies."""
        m, spectrum = self.modes, torch.fft.rfft2(x)
        out = torch.zeros(
            x.shape[0], self.weights1.shape[1], x.shape[-2], x.shape[-1] // 2 + 1, dtype=torch.cfloat, device=x.device
        )
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.weights1)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.weights2)
        return torch.fft.irfft2(out, s=(x.shape[-2], x.shape[-1]))


class FourierOperator(nn.Module):
    """A Fourier neural operator in two dimensions."""

    def __init__(self, width: int = 16, modes: int = 4) -> None:
        super().__init__()
        self.lift = nn.Linear(3, width)
        self.spectral = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(3))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3))
        self.project = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map functions on a grid to functions on this grid."""
        h = self.lift(x).permute(0, 3, 1, 2)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            h = torch.nn.functional.gelu(spectral(h) + local(h))
        out: torch.Tensor = self.project(h.permute(0, 2, 3, 1))
        return out


GRAPH_LAYERS: dict[str, dict[str, Any]] = {
    "ARMAConv": {"num_stacks": 3, "num_layers": 2}, "ChebConv": {"K": 3}, "GATConv": {"heads": 2}, "GATv2Conv": {"heads": 2, "concat": False},
    "TAGConv": {}, "GraphConv": {}, "GatedGraphConv": {}, "LEConv": {}, "MFConv": {}, "ClusterGCNConv": {}, "ResGatedGraphConv": {},
    "SuperGATConv": {}, "FeaStConv": {}, "TransformerConv": {"heads": 2, "concat": False}, "FiLMConv": {}, "GENConv": {}, "SSGConv": {"alpha": 0.1},
    "GeneralConv": {}, "EGConv": {"num_heads": 4, "num_bases": 2},
}  # fmt: skip


class GraphLayers(nn.Module):
    """Two graph layers of one kind."""

    def __init__(self, kind: str) -> None:
        import torch_geometric.nn as pyg

        super().__init__()
        options = GRAPH_LAYERS[kind]
        heads = options.get("heads", 1) if options.get("concat", True) else 1
        if kind == "GatedGraphConv":
            self.a, self.b = pyg.GatedGraphConv(16, 2), pyg.GCNConv(16, 4)
        else:
            layer = getattr(pyg, kind)
            self.a, self.b = layer(10, 32, **options), layer(32 * heads, 4, **options)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return numbers for each node."""
        out: torch.Tensor = self.b(self.a(x, edges).relu(), edges)
        return out


def list_networks(with_zoo: bool) -> Iterator[tuple[str, Callable[[], BuiltNetwork]]]:
    """Yield the networks of this benchmark, and with ``with_zoo`` those of `zoo.py`."""
    for name, (options, example) in TRANSFORMERS.items():
        yield (
            f"transformers:{name}",
            lambda name=name, options=options, example=example: (
                _transformers_network(name, options),
                example,
            ),
        )
    for kind in GRAPH_LAYERS:
        yield f"pyg:{kind}", lambda kind=kind: (GraphLayers(kind), (torch.randn(8, 10), EDGES))
    yield "hand-written:FourierOperator", lambda: (FourierOperator(), torch.randn(2, 16, 16, 3))
    if with_zoo:
        yield from all_networks()


ENDS = re.compile(r"a dimension of output|dimension .* of input|output .* holds numbers")


def measure(name: str, with_zoo: bool, outputs: list[str]) -> dict[str, Any]:
    """Return the shares of parameters on axes that may merge, of all outputs and of the first one, and the reasons of the others."""
    from netgraph.errors import NetgraphError
    from netgraph.recording.forward.named_outputs import name_outputs
    from netgraph.tracing.tracer import trace

    torch.manual_seed(0)
    model, example = dict(list_networks(with_zoo))[name]()
    try:
        spec = trace(model, example, prove=False, outputs=outputs)
        row = count_parameters(model, spec)
        names = list(name_outputs(spec.plans["eval"].outputs))
        if len(names) > 1 and not outputs:
            first = count_parameters(model, trace(model, example, prove=False, outputs=names[:1]))
            row["first_output"] = {
                "name": names[0],
                "outputs_aside": first["outputs_aside"],
                "reasons": first["reasons"],
            }
    except NetgraphError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return row


def count_parameters(model: nn.Module, spec: Any) -> dict[str, Any]:
    """Return the shares of parameters on axes that may merge, and the reasons of the others."""
    from netgraph.tracing.unit_spec import term_axes

    total, merge, ends, reasons = 0, 0, 0, Counter[str]()
    for parameter, tensor in model.named_parameters():
        axes = [spec.axes[a] for term in spec.parameters[parameter] for a in term_axes(term) if spec.axes[a].size > 1]
        total += tensor.numel()
        if any(axis.kept is None for axis in axes):
            merge += tensor.numel()
        elif any(ENDS.match(axis.kept or "") for axis in axes):
            ends += tensor.numel()
        else:
            reasons[f"{parameter}: " + " | ".join(dict.fromkeys(str(a.kept) for a in axes))] += tensor.numel()
    by_reason: dict[str, list[Any]] = {}
    for text, n in reasons.items():
        parameter, _, reason = text.partition(": ")
        row = by_reason.setdefault(reason, [0, parameter])
        row[0] += n / total
    return {
        "parameters": total,
        "share": merge / total,
        "outputs_aside": merge / max(total - ends, 1),
        "reasons": sorted(([round(n, 4), first, reason] for reason, (n, first) in by_reason.items()), reverse=True),
    }


def _run_child(queue: Any, name: str, with_zoo: bool, outputs: list[str]) -> None:
    torch.set_num_threads(1)
    try:
        queue.put(measure(name, with_zoo, outputs))
    except Exception as error:
        queue.put({"crashed": f"{type(error).__name__}: {str(error)[:300]}"})


def run_apart(name: str, with_zoo: bool, outputs: list[str]) -> dict[str, Any]:
    """Measure a network in its own process."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_run_child, args=(queue, name, with_zoo, outputs))
    process.start()
    try:
        row: dict[str, Any] = queue.get(timeout=LIMIT)
    except Exception:
        row = {"crashed": f"no answer in {LIMIT} s"}
    process.terminate()
    process.join()
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--zoo", action="store_true", help="the networks of zoo.py too")
    parser.add_argument("--outputs", nargs="*", default=[], help="names of the outputs that matter")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    names = [n for n, _ in list_networks(options.zoo) if not options.only or any(o in n for o in options.only)]
    shares = []
    with options.out.open("w") as file:
        file.write(json.dumps({"machine": platform.platform(), "torch": torch.__version__, "seed": 0}) + "\n")
        for name in names:
            row = run_apart(name, options.zoo, options.outputs)
            file.write(json.dumps({"name": name, **row}) + "\n")
            file.flush()
            if "share" not in row:
                print(f"{name}: {row}", flush=True)
                continue
            shares.append(row["outputs_aside"])
            first_output = row.get("first_output", row)
            print(
                f"{name}: {row['share']:.3f}, outputs aside {row['outputs_aside']:.3f}, where only {first_output.get('name', 'its output')} "
                f"matters {first_output['outputs_aside']:.3f}",
                flush=True,
            )
            for share, first, reason in [*row["reasons"], *first_output["reasons"]]:
                print(f"    {share:.3f} {first}: {reason[:260]}", flush=True)
    print(f"{len(shares)} of {len(names)} networks traced, {sum(s >= 0.9 for s in shares)} with 90 % or more")


if __name__ == "__main__":
    main()
