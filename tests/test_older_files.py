"""Files that version 0.1.0 wrote before the packages were divided into sub-packages: they open, and mean the same.

`tests/data/before_layout` holds two hierarchies, the outputs of one, and a checkpoint in the middle of a training with coarse
steps beside the network that it ended with. They were written with torch 2.13.0 on a CPU.
"""

import shutil
from pathlib import Path

import torch
from command_line import run
from safetensors.torch import load_file

import netgraph as ng
from netgraph.models.perceptron import mlp

BEFORE = Path(__file__).parent / "data" / "before_layout"


def test_a_hierarchy_opens_and_every_level_gives_the_outputs_it_gave():
    hierarchy = ng.load(BEFORE / "mlp.hierarchy", arch=lambda: mlp((8, 12, 10, 3)))
    written = torch.load(BEFORE / "mlp_outputs.pt", weights_only=True)
    for level, outputs in zip(hierarchy.levels, written["outputs"], strict=True):
        torch.testing.assert_close(level.model(written["x"]), outputs)


def test_a_hierarchy_of_channels_and_depth_opens_with_its_transfers():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    def network():
        return torch.nn.Sequential(torch.nn.Linear(6, 8), Block(), Block(), Block(), Block(), torch.nn.Linear(8, 2))

    hierarchy = ng.load(BEFORE / "blocks.hierarchy", arch=network)
    transfers = hierarchy.levels[1].transfers
    assert {axis: t.P.shape for axis, t in transfers.items()}
    for t in transfers.values():
        torch.testing.assert_close(torch.tensor((t.R @ t.P).toarray()), torch.eye(t.P.shape[1], dtype=torch.float64))
    assert hierarchy.levels[1].model(torch.randn(3, 6)).shape == (3, 2)


def test_a_checkpoint_resumes_and_ends_with_the_weights_of_the_whole_run(tmp_path):
    shutil.copytree(BEFORE / "checkpoints", tmp_path / "checkpoints")
    words = [
        "train",
        "mlp",
        "--widths",
        "12,12",
        "--epochs",
        "2",
        "--cycle",
        "full",
        "--levels",
        "2",
        "--optimizer",
        "adamw",
        "--schedule",
        "one-cycle",  # the default of that version
        "--batch",
        "128",
        "--option",
        "gate.share=inf",
        "--option",
        "gate.gap=inf",
        "--option",
        "gate.tau=inf",
        "--keep-last",
        "99",
        "--seed",
        "3",
        "--resume",
    ]
    code, _, messages = run(*words, "--checkpoints", tmp_path / "checkpoints", "-o", tmp_path / "out.safetensors")
    assert code == 0, messages
    assert "resumed at step 13" in messages
    resumed, written = load_file(tmp_path / "out.safetensors"), load_file(BEFORE / "trained.safetensors")
    assert resumed.keys() == written.keys()
    for name, tensor in written.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-5)
