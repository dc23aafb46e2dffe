"""compress with depth: blocks are chosen by their similarity and by measured errors, left out or merged, and repaired from the original."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import netgraph as ng
from netgraph.analysis.residual_chains import find_chains
from netgraph.coarsen import CoarsenOptions, compress, compress_in_rounds
from netgraph.coarsen.compression.depth import measure_depths
from netgraph.coarsen.directions.block_similarity import measure_similarity
from netgraph.coarsen.directions.depth import leave_out
from netgraph.coarsen.hierarchy.hierarchy import prepare_builder
from netgraph.errors import NetgraphError, NothingToMergeError
from netgraph.models import Encoder, resnet20
from tests.support.command_line import run_main

DEPTH = CoarsenOptions(coarsener="ward", repair="ridge", directions="depth")
BOTH = CoarsenOptions(coarsener="ward", repair="ridge", directions="channels+depth")
TOKENS = torch.randint(1, 50, (256, 8), generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def residual_net(depth=4, width=6, hidden=24):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), *(Block(width, hidden) for _ in range(depth)), nn.Linear(width, 3)).eval()


def encoder(*idle, depth=5):
    """Return an encoder in which some blocks add nothing."""
    torch.manual_seed(0)
    network = Encoder(50, 3, width=16, depth=depth, n_heads=2, n_hidden=32, length=8).eval()
    with torch.no_grad():
        for i in idle:
            for layer in (network.blocks[i].attention.out, network.blocks[i].down):
                layer.weight.zero_()
                layer.bias.zero_()
    return network


def begin(network, data, options=DEPTH):
    return prepare_builder(network, data[:2], options=ng.CoarsenOptions(**{**vars(options), "ratio": 1.0}), data=data)


def test_the_similarity_of_blocks_is_that_of_the_streams_between_modules():
    network, states = encoder(), []
    builder = begin(network, TOKENS)
    (chain,), _ = find_chains(builder.spec)
    recorded = ng.coarse_network(network, builder.spec, {}).eval()
    cosines = measure_similarity(recorded, builder.spec, chain, [TOKENS[:100], TOKENS[100:]])
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].detach()))
    network.blocks[-1].register_forward_hook(lambda *call: states.append(call[2].detach()))
    network(TOKENS)
    for i, first in enumerate(states):
        for j, second in enumerate(states):
            expected = functional.cosine_similarity(first, second, dim=-1).mean()
            assert cosines[i, j] == pytest.approx(float(expected), abs=1e-5)


def test_blocks_that_add_nothing_are_left_out_and_nothing_is_lost():
    network = encoder(1, 3)
    result = compress(network, TOKENS, target="flops=0.65", options=DEPTH, metric="error")
    (step,) = result.hierarchy.levels[1].chains
    assert step.dropped == ("blocks.1", "blocks.3")
    assert result.is_met
    merged = next(stage for stage in result.stages if stage.name == "merged")
    assert merged.metric < 1e-6
    torch.testing.assert_close(result.model(TOKENS), network(TOKENS))
    assert any(
        note.startswith("3 of the 5 blocks from blocks.0 on stay: blocks.1, blocks.3 are left out")
        for note in result.notes
    )
    assert result.document()["blocks"] == {"blocks.0": {name: [name] for name in ("blocks.0", "blocks.2", "blocks.4")}}


def test_equal_small_neighbours_may_merge():
    torch.manual_seed(0)
    network = residual_net(4)
    with torch.no_grad():
        for block in network[2:5]:
            block.load_state_dict(network[1].state_dict())
        for block in network[1:5]:
            block.down.weight.mul_(0.02)
            block.down.bias.mul_(0.02)
    rows = torch.randn(200, 5)
    trials = measure_depths(begin(network, rows), repaired=False)
    halves = {trial.way: trial.error for trial in trials if len(trial.step.dropped) == 2}
    assert halves["merged"] < 0.1 * min(error for way, error in halves.items() if way != "merged")
    result = compress(network, rows, target="flops=0.6", options=ng.CoarsenOptions(**{**vars(DEPTH), "repair": "none"}))
    assert [len(blocks) for blocks in result.hierarchy.levels[1].chains[0].families.values()] == [2, 2]


def test_the_block_before_a_missing_one_takes_over_its_part_by_least_squares():
    network = residual_net()
    rows = torch.randn(3000, 5)
    builder = begin(network, rows)
    (chain,), _ = find_chains(builder.spec)
    step = leave_out(chain, [chain.blocks[3]])
    builder.rebase((step,))
    reasons = {}
    level = builder.build_level({}, reasons, (step,))
    with torch.no_grad():
        entry = network[:3](rows)  # stream in front of the last kept block
        hidden = torch.relu(network[3].up(entry)).double()
        wanted = (network[:5](rows) - entry).double()
        design = torch.cat([hidden, torch.ones(len(rows), 1)], 1).numpy()
        found, *_ = np.linalg.lstsq(design, wanted.numpy(), rcond=None)
        stream = entry.double() + torch.from_numpy(design @ found)
        best = network[5](stream.float())
        least = float((best - network(rows)).norm() / network(rows).norm())
        whole = float((network[5](network[:4](rows)) - network(rows)).norm() / network(rows).norm())
        reached = float((level.model(rows) - network(rows)).norm() / network(rows).norm())
    assert reached == pytest.approx(reasons["error"], rel=1e-3)
    assert reached < 1.05 * least < 0.7 * whole


def test_units_and_blocks_together_lose_less_than_units_alone():
    network = encoder(1, 3)
    errors = {}
    for options in (CoarsenOptions(coarsener="ward", repair="ridge"), BOTH):
        result = compress(network, TOKENS, target="flops=0.4", options=options, metric="error")
        assert result.is_met
        errors[options.directions] = result.stages[-1].metric
    assert {"blocks.1", "blocks.3"} <= set(result.hierarchy.levels[1].chains[0].dropped)
    assert result.hierarchy.levels[1].transfers
    assert errors["channels+depth"] < errors["channels"]


def test_blocks_go_as_long_as_the_error_allows_it():
    result = compress(encoder(1, 3), TOKENS, target="error=0.001", options=DEPTH)
    assert result.hierarchy.levels[1].chains[0].dropped == ("blocks.1", "blocks.3")
    assert result.is_met


def test_blocks_go_for_milliseconds():
    result = compress(encoder(1, 3), TOKENS, target="latency=0.7", options=DEPTH, latency_batch=64)
    (step,) = result.hierarchy.levels[1].chains  # how many depends on the milliseconds of this machine
    assert 1 <= len(step.dropped) <= 4
    assert result.stages[-1].costs.flops < result.stages[0].costs.flops


def test_stages_of_a_convolutional_network_become_shorter():
    torch.manual_seed(0)
    network, rows = resnet20(width=4).eval(), torch.randn(64, 3, 16, 16)
    result = compress(network, rows, target="flops=0.75", options=DEPTH, metric="error")
    assert result.is_met
    stages = {stage.name: stage.metric for stage in result.stages}
    assert stages["repaired"] < stages["merged"]
    dropped = [block for step in result.hierarchy.levels[1].chains for block in step.dropped]
    gone = [name for name in network.state_dict() if name.startswith(tuple(f"{block}." for block in dropped))]
    assert type(result.model) is type(network), "the blocks behind have new numbers"
    assert len(result.model.state_dict()) == len(network.state_dict()) - len(gone) < len(network.state_dict())
    torch.testing.assert_close(result.model(rows), result.hierarchy.levels[1].model(rows), rtol=1e-4, atol=1e-5)


def test_what_cannot_become_shorter_is_refused():
    plain, rows = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 4)
    none = "depth leaves out alike residual blocks, and there are none: "
    with pytest.raises(NothingToMergeError, match=f"{none}0 does not end in a sum with its input"):
        compress(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), rows, options=DEPTH)
    for options in (DEPTH, BOTH):  # one block has no neighbour, and its own layers are no list
        with pytest.raises(NothingToMergeError, match=f"{none}no list has two neighbouring modules"):
            compress(encoder(depth=1), TOKENS, options=options)
    with pytest.raises(
        NetgraphError, match="compress makes channels and depth smaller, and the directions are 'space'"
    ):
        compress(plain, rows, options=CoarsenOptions(directions="space"))
    with pytest.raises(NetgraphError, match="rounds merge channels alone"):
        compress_in_rounds(plain, rows, options=BOTH)


def test_the_command_writes_and_opens_a_network_with_fewer_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = encoder(1, 3)
    ng.save(ng.coarse_network(network, ng.trace(network, TOKENS[:2]), {}), "net.safetensors")
    torch.save(TOKENS, "rows.pt")
    words = (
        "compress",
        "net.safetensors",
        "--data",
        "rows.pt",
        "--coarsen",
        "depth",
        "--target",
        "flops=0.65",
        "--json",
    )
    code, out, err = run_main(*words, "-o", "short.hierarchy")
    assert code == 0, err
    document = json.loads(out)
    assert document["blocks"] == {"blocks.0": {name: [name] for name in ("blocks.0", "blocks.2", "blocks.4")}}
    assert {trial["way"] for trial in document["depth"]} == {"weak", "run", "merged"}
    opened = ng.load("short.hierarchy").levels[1]
    assert opened.chains[0].dropped == ("blocks.1", "blocks.3")
    torch.testing.assert_close(opened.model(TOKENS), network(TOKENS), rtol=1e-4, atol=1e-5)
    code, _, err = run_main(*words, "--rounds", "2", "--tune-epochs", "1")
    assert code == 1
    assert "rounds merge channels alone, and the directions are 'depth'" in err
    code, _, err = run_main(*words, "--coarsener", "hem")
    assert code == 1
    assert "--coarsener would have no effect: --coarsen depth merges no units" in err
