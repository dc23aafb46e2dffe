"""Coarse starts in the loops of Lightning and transformers: one epoch of each, compared with an explicit loop."""

import copy

import pytest
import torch
from blobs import batches, blobs, levels, loss_of, network, weights
from torch import nn

import netgraph as ng
from netgraph.errors import NetgraphError
from netgraph.fas.integrations.coarse_start import CoarseStart
from netgraph.fas.integrations.forward_swap import ForwardSwap
from netgraph.fas.levels.maps import HierarchyMaps
from netgraph.fas.options.all_options import Options


def train_by_hand(model, begin, clip=None):
    """Return the weights after one epoch of Adam that begins on coarse levels, in an explicit loop."""
    x, t = blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    start = CoarseStart(HierarchyMaps(levels(model)), optimizer, begin, Options())
    for inputs, targets in batches(x, t):
        optimizer.zero_grad()
        loss_of(start.model, inputs, targets).backward()
        if clip:
            nn.utils.clip_grad_norm_(start.model.parameters(), clip)
        optimizer.step()
        start.advance()
    start.finish()
    return weights(model)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_an_epoch_that_begins_on_coarse_levels(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from netgraph.fas.integrations.lightning import LightningCoarseStart

    class Classifier(lightning.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net, self.levels = net, []

        def training_step(self, batch, _):
            self.levels.append(callback.level)
            return loss_of(self.net, *batch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    model = network()
    callback = LightningCoarseStart(levels(model), begin=(2, 3))
    module = Classifier(model)
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, barebones=False,
    )  # fmt: skip
    x, t = blobs()
    trainer.fit(module, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, t), 32))
    assert module.levels == [2, 2, 2, 1, 1, 0, 0, 0]
    assert "forward" not in model.__dict__
    torch.testing.assert_close(weights(model), train_by_hand(network(), (2, 3)), rtol=0, atol=0)


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.t = blobs()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"input": self.x[i], "labels": self.t[i]}


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_an_epoch_that_begins_on_coarse_levels(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from netgraph.fas.integrations.transformers import TransformersCoarseStart

    model = network()
    hierarchy = ng.build_hierarchy(model, {"input": torch.randn(2, 6)}, n_levels=3)  # as the Trainer calls it
    callback = TransformersCoarseStart(hierarchy, begin=(2, 3))
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(callback.level)
        return nn.functional.cross_entropy(outputs, labels)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=32, max_grad_norm=0.5, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, lr_scheduler_type="constant",
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = InOrder(
        model,
        arguments,
        train_dataset=Rows(),
        callbacks=[callback],
        optimizers=(optimizer, None),
        compute_loss_func=loss,
    )
    trainer.train()
    assert seen == [2, 2, 2, 1, 1, 0, 0, 0]
    assert "forward" not in model.__dict__
    torch.testing.assert_close(weights(model), train_by_hand(network(), (2, 3), clip=0.5), rtol=0, atol=0)


def test_a_forward_swap_runs_the_current_level_and_leaves_a_trained_network(caplog):
    model = network()
    untouched = copy.deepcopy(model)
    hierarchy = levels(model)
    swap = ForwardSwap(hierarchy, (0, 5), ignored=("counted",))
    swap.enter(torch.optim.SGD(model.parameters(), lr=0.1))
    x, t = blobs()
    model.eval()
    coarse = hierarchy.levels[2].model
    assert torch.equal(model(x, counted=1), coarse(x))
    assert not coarse.training
    with pytest.raises(NetgraphError, match="compute_loss_func"):
        model(x, labels=t)
    swap.leave()
    assert swap.level == 0
    torch.testing.assert_close(model(x), coarse(x), rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(model), weights(untouched))
    assert "no finer level was trained" in caplog.text
