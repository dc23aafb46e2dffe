"""A coarse network of Hugging Face transformers: the same class, from a config with smaller numbers.

The class builds its network from its config, and a copy with smaller parameters would not survive saving. The numbers in the
config that may be sizes of the network become candidates. A network on meta tensors shows which of them fit.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from netgraph.coarsen.user_class.fewer_blocks import BlockChange
from netgraph.coarsen.user_class.module_attributes import recount_value
from netgraph.coarsen.user_class.shape_search import ShapeSearch
from netgraph.coarsen.user_class.size_candidates import SizeChange, list_coarse_sizes
from netgraph.errors import OwnClassError, describe_error
from netgraph.io.hub.folder_kind import NETWORK, TRANSFORMERS
from netgraph.io.hub.model_card import FolderFacts, count_parameters
from netgraph.io.huggingface import build_on_meta, silence_transformers

WIDTHS = re.compile(
    r"hidden|embed|embd|inter|inner|dim|d_|ff|head|channel|width|proj|state|group|rank|conv|expert|top_?k|moe_k"
)
TOKENS = re.compile(r"_ids?$")  # numbers of tokens, such as pad_token_id, are no widths
TRIES = 256


def is_transformers_model(model: nn.Module) -> bool:
    """Return True if a network is built from a config and saves itself with it."""
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and hasattr(type(model), "config_class")


def iterate_config_networks(
    model: Any, state: Mapping[str, Tensor], sizes: SizeChange, blocks: BlockChange
) -> Iterator[nn.Module]:
    """Yield networks of smaller configs that hold a coarse state, the most likely first.

    Raises
    ------
    OwnClassError
        No config makes a network of these shapes.
    """
    search = ShapeSearch(
        lambda values: build_on_meta(type(model), _make_config(model.config, values)),
        list(dict.fromkeys((*model.state_dict(), *(name for name, _ in model.named_buffers())))),
        state,
        _list_options(model.config, sizes, blocks),
        vars(model.config),
    )
    fits, lost = 0, ""
    for values in itertools.islice(search.iterate_values(), TRIES):
        if search.measure_misfit(values):
            continue
        config = _make_config(model.config, values)
        if blocks.kept and (lost := _find_lost_entry(config, values)):
            continue
        fits += 1
        yield _load_coarse_state(type(model)(copy.deepcopy(config)), model, state)
    if not fits and lost:
        raise OwnClassError(f"its config has another {lost} once it was saved and opened")
    if not fits:
        raise OwnClassError(
            f"no config makes a network of its shapes ({search.first_misfit}). A config needs layers of equal sizes. Give one ratio, "
            "and keep= the axes that have no number in the config"
        )


def _make_config(config: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a config with other numbers."""
    changed = copy.deepcopy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def _find_lost_entry(config: Any, values: Mapping[str, Any]) -> str:
    """Return a changed entry of a config that is another one once the config was a file, empty if there is none.

    Some configs derive what they say of each layer from another entry.
    """
    try:
        again = type(config).from_dict(config.to_dict())
    except Exception as error:  # configs check themselves
        return f"form ({describe_error(error)})"
    return next((name for name, value in values.items() if getattr(again, name, None) != value), "")


def _list_options(config: Any, sizes: SizeChange, blocks: BlockChange) -> dict[str, list[Any]]:
    """Return the numbers of a config that may be sizes, each with the values that it may have, the most likely first."""
    counts = sizes.collect_sizes("")
    options: dict[str, list[Any]] = {}
    for name, value in vars(config).items():
        if not name.startswith("_") and (fewer := blocks.list_options(name, value)):
            options[name] = [*fewer, value]
            continue
        if name.startswith("_") or not WIDTHS.search(name) or TOKENS.search(name):
            continue
        if value is None:  # a number that follows from others, as n_inner of GPT-2 is four times n_embd
            changed = {n for fine, kinds in counts.items() for n in kinds.get("whole", ()) if n != fine}
            options[name] = [None, *sorted(changed)]
            continue
        others = list_coarse_sizes(name, value, counts) if type(value) is int else [recount_value(name, value, counts)]
        if any(v != value for v in others):
            options[name] = [*(v for v in others if v != value), value]
    return options


def _load_coarse_state(network: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a coarse state, and take device, precision and frozen parameters from the fine network."""
    fine = dict(model.named_parameters())
    first = next(iter(fine.values()))
    network = network.to(device=first.device, dtype=first.dtype)
    missing, unexpected = network.load_state_dict(
        {n: state[n] for n in network.state_dict() if n in state}, strict=False
    )
    ties = {id(network.get_parameter(n)) for n in state if n in fine}
    absent = [n for n in missing if n in fine or id(network.state_dict(keep_vars=True)[n]) not in ties]
    if absent or unexpected:
        raise OwnClassError(f"its class has {', '.join([*absent, *unexpected][:3])}, which the coarse network lacks")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in fine or fine[name].requires_grad)
    if getattr(model, "generation_config", None) is not None:  # a second end token, lengths, sampling
        network.generation_config = copy.deepcopy(model.generation_config)
    return network


def write_transformers(model: Any, folder: Path) -> None:
    """Let transformers write config and weights into a folder."""
    import transformers

    with silence_transformers(transformers.utils.logging):
        model.save_pretrained(folder)


def describe_transformers(model: nn.Module) -> FolderFacts:
    """Return what the card tells of the folder of a network."""
    return FolderFacts(TRANSFORMERS, NETWORK, type(model).__name__, (count_parameters(model),))
