"""The state of a run as tensors and a document for JSON, and back.

It can be captured between two optimizer steps, in the middle of a cycle too. Names of tensors are paths: ``1/x/fc1.weight`` is
that weight on level 1, ``1/moments/exp_avg/fc1.weight`` its first moment there, and ``1/rhs/0/fc1.weight`` its right-hand side.
The keys of the document belong to the file format. Files of older versions have them too, therefore some differ from the names
in the code: ``rests`` are the backoffs, ``descents`` the coarse problems under way, ``turns`` the position of a grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.errors import NetgraphError
from netgraph.fas.checkpoint.memory_layout import copy_with_layouts, read_layouts
from netgraph.fas.checkpoint.positions import PLAN, check_positions, check_same_tensors, check_switch
from netgraph.fas.estimate.samples import Remainder
from netgraph.fas.estimate.step import EstimateState
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import HierarchyMaps, live_state
from netgraph.fas.levels.moments import Moments, read_moments, set_moments
from netgraph.fas.levels.rematch import read_aggregates, read_weights, restore_levels
from netgraph.fas.levels.tau import FIGURES, CoarseProblem
from netgraph.fas.levels.vectors import assign
from netgraph.fas.solver.adaptive import Backoff, CostAccount, VisitLength
from netgraph.fas.solver.cycles import Visit
from netgraph.fas.solver.random_state import get_random_state
from netgraph.fas.solver.run import Run
from netgraph.utils.pytree import build_structure, drop_classes, unflatten_tree

COUNTERS = ("top", "at", "done", "steps", "cycles", "refused", "losses", "notes")
Tensors = dict[str, Tensor]


def gather_random_states(run: Run) -> Tensors:
    """Return the random states of all processes but the first, by rank. All processes take part."""
    states = run.ranks.gather(get_random_state() if run.ranks.are_several else {})
    return {
        name: t
        for rank, state in enumerate(states[1:], 1)
        for name, t in _prefix_names(f"random.{rank}", state).items()
    }


def capture_state(run: Run, others: Mapping[str, Tensor] | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Return the live state of a run, to be written before the next step.

    Parameters
    ----------
    run : Run
    others : dict of str to Tensor, optional
        Random states of the other processes (`gather_random_states`).

    Returns
    -------
    tensors : dict of str to Tensor
    document : dict
        Data for JSON.

    Raises
    ------
    NetgraphError
        A minibatch or an optimizer holds an object that is no tensor, number or text.
    """
    tensors: Tensors = {}
    document: dict[str, Any] = {name: getattr(run, name) for name in COUNTERS}
    document["instead"] = None if run.instead is None else list(run.instead)
    document["switches"] = [list(switch) for switch in run.switches]
    document["rests"] = {str(level): vars(backoff) for level, backoff in run.backoffs.items()}
    document["steering"] = {
        name: str(value) for name, value in vars(run.steering).items()
    }  # as text, because NaN is no JSON
    document["account"] = vars(run.account)
    document["estimates"] = {
        str(level): {name: getattr(state, name) for name in PLAN} for level, state in run.estimates.items()
    }
    document["remainder"] = _capture_remainder(run, tensors)
    document["descents"] = {
        str(i): _capture_coarse_problem(p, f"{i}/direction", tensors) for i, p in run.coarse_problems.items()
    }
    document["schedules"] = [schedule.state_dict() for schedule in run.schedules]
    document["stream"] = _capture_stream(run, tensors)
    document["ledger"] = run.ledger.state_dict()
    document["grids"] = [_capture_grid(grid, str(level), tensors) for level, grid in enumerate(run.grids)]
    if run.options.adapt.rematch and isinstance(run.maps, HierarchyMaps):
        for path, levels in (("aggregates", read_aggregates(run.maps)), ("unit_weights", read_weights(run.maps))):
            for level, of_axes in enumerate(levels):
                tensors |= _prefix_names(f"{path}/{level}", of_axes)
    if run.mean is not None:
        tensors |= _prefix_names("mean", live_state(run.mean))
    tensors |= _prefix_names("before", run.before)
    tensors |= {**_prefix_names("random", get_random_state()), **(others or {})}
    if run.ranks.are_several:
        document["ranks"] = run.ranks.count
    # The history is a tensor of bytes, because the document has a largest length.
    tensors["history"] = torch.frombuffer(
        bytearray(json.dumps(run.history, default=_to_json_value).encode()), dtype=torch.uint8
    )
    document["layouts"] = read_layouts(tensors)
    return tensors, document


def restore_state(run: Run, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Give a run that has not begun the state of a saved one.

    Raises
    ------
    Exception
        The document has another form. The run is then spoiled.
    """
    for switch in document.get("switches", ()):  # files of older versions have none
        run.apply_switch(*check_switch(run, switch))
    check_positions(run, document, len(tensors))
    tensors = copy_with_layouts(tensors, document["layouts"])
    for name in COUNTERS:
        setattr(run, name, document[name])
    if run.options.adapt.rematch and isinstance(run.maps, HierarchyMaps):
        aggregates, weights = (
            [select_under(f"{path}/{level}", tensors) for level in range(len(run.grids))]
            for path in ("aggregates", "unit_weights")
        )
        run.replace_maps(restore_levels(run.maps, aggregates, weights))
    run.instead = None if document["instead"] is None else Visit(*document["instead"])
    run.backoffs = {int(level): Backoff(**rest) for level, rest in document["rests"].items()}
    run.steering = VisitLength(**{name: float(value) for name, value in document["steering"].items()})
    run.account = CostAccount(**document["account"])
    saved_estimates = document.get("estimates", {})  # files of older versions have none
    run.estimates = {int(level): EstimateState(**state) for level, state in saved_estimates.items()}
    if "remainder" in document:
        batches = _restore_batches("remainder", tensors, document["remainder"]["batches"])
        run.remainder = Remainder(batches, document["remainder"]["largest"])
    for level, (grid, saved_grid) in enumerate(zip(run.grids, document["grids"], strict=True)):
        _restore_grid(grid, str(level), tensors, saved_grid)
    for key, figures in document["descents"].items():
        fine, coarse = run.grids[int(key)], run.grids[int(key) + 1]
        direction = _select_on_device(f"{key}/direction", tensors, fine.model)
        run.coarse_problems[int(key)] = CoarseProblem(coarse.rhs, direction=direction, **figures)
    for schedule, saved_schedule in zip(run.schedules, document["schedules"], strict=True):
        schedule.load_state_dict(saved_schedule)
    generators = {key: list(select_under(f"stream/{key}", tensors).values()) for key in ("began", "now")}
    run.stream.load_state_dict({**document["stream"], **generators})
    run.ledger.load_state_dict(document["ledger"])
    run.history[:] = read_records(tensors["history"])
    if run.mean is not None:
        check_same_tensors(live_state(run.mean), select_under("mean", tensors), "the running mean")
        assign(live_state(run.mean), select_under("mean", tensors))
    run.before = _select_on_device("before", tensors, run.grids[0].model)
    run.rng = _select_random_state(run, tensors, document.get("ranks", 1))


def _select_random_state(run: Run, tensors: Mapping[str, Tensor], count: int) -> Tensors | None:
    """Return the random state of this process. If the run had another number of them, all but the first begin with their seeds."""
    if run.ranks.is_first:
        return select_under("random", tensors)
    return select_under(f"random.{run.ranks.rank}", tensors) if count == run.ranks.count else None


def read_records(history: Tensor) -> list[Any]:
    """Return the records of a history from its bytes.

    Raises
    ------
    ValueError
        They are no list in JSON.
    """
    try:
        records = json.loads(history.to(torch.uint8).numpy().tobytes())
    except RecursionError:
        raise ValueError("its history nests too deep") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) and "event" in record for record in records):
        raise ValueError("its history is no list of records")
    return records


def select_under(path: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors below a path by the rest of their names."""
    return {name[len(path) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{path}/")}


def _prefix_names(path: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return tensors with a path before their names."""
    return {f"{path}/{name}": tensor for name, tensor in tensors.items()}


def _select_on_device(path: str, tensors: Mapping[str, Tensor], model: nn.Module) -> Tensors:
    """Return the tensors below a path, on the device of a model."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {name: tensor.to(device) for name, tensor in select_under(path, tensors).items()}


def _capture_coarse_problem(problem: CoarseProblem, path: str, tensors: Tensors) -> dict[str, float]:
    """Return the figures of a coarse problem. Its right-hand sides are saved with the coarser grid."""
    tensors |= _prefix_names(path, problem.direction)
    return {name: getattr(problem, name) for name in FIGURES}


def _capture_stream(run: Run, tensors: Tensors) -> dict[str, int]:
    """Return the position in the stream. The states of the loader's generators go to the tensors."""
    saved = run.stream.state_dict()
    for key in ("began", "now"):
        tensors |= {f"stream/{key}/{i}": state for i, state in enumerate(saved.pop(key))}
    return saved


def _capture_grid(grid: Grid, path: str, tensors: Tensors) -> dict[str, Any]:
    """Return the numbers of a level. Its tensors go to the tensors, below a path."""
    tensors |= _prefix_names(f"{path}/x", live_state(grid.model))
    tensors |= _prefix_names(f"{path}/injected", grid.injected)
    tensors |= _prefix_names(f"{path}/new", grid.new)
    for i, b in enumerate(grid.rhs):
        tensors |= _prefix_names(f"{path}/rhs/{i}", b)
    saved: dict[str, Any] = {"turns": grid.position, "rhs": len(grid.rhs)}
    saved["moments"] = _capture_moments(read_moments(grid.smoother), f"{path}/moments", tensors)
    saved["groups"] = [_capture_group(group) for group in grid.smoother.optimizer.param_groups]
    saved["common"] = _capture_batches(grid.common, f"{path}/common", tensors)
    return saved


def _capture_batches(batches: list[Any], path: str, tensors: Tensors) -> dict[str, Any]:
    """Return the structure of minibatches. Their tensors go to the tensors, below a path."""
    leaves: list[Tensor] = []
    structure = drop_classes(build_structure(list(batches), leaves))
    tensors |= {f"{path}/{i}": leaf for i, leaf in enumerate(leaves)}
    return structure


def _restore_batches(path: str, tensors: Mapping[str, Tensor], structure: Mapping[str, Any]) -> list[Any]:
    """Return minibatches from their structure and the tensors below a path."""
    leaves = sorted(select_under(path, tensors).items(), key=lambda pair: int(pair[0]))
    batches: list[Any] = unflatten_tree(dict(structure), [leaf for _, leaf in leaves])
    return batches


def _capture_remainder(run: Run, tensors: Tensors) -> dict[str, Any]:
    """Return what an estimate has left of a minibatch."""
    return {
        "batches": _capture_batches(run.remainder.batches, "remainder", tensors),
        "largest": run.remainder.largest,
    }


def _restore_grid(grid: Grid, path: str, tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> None:
    """Give a level the saved tensors and numbers."""
    check_same_tensors(live_state(grid.model), select_under(f"{path}/x", tensors), f"level {path}")
    assign(live_state(grid.model), select_under(f"{path}/x", tensors))
    grid.injected = _select_on_device(f"{path}/injected", tensors, grid.model)
    grid.new = _restore_new(path, tensors, grid)
    grid.rhs = [_select_on_device(f"{path}/rhs/{i}", tensors, grid.model) for i in range(saved["rhs"])]
    grid.position = saved["turns"]
    set_moments(grid.smoother, _restore_moments(f"{path}/moments", tensors, saved["moments"], grid))
    for group, numbers in zip(grid.smoother.optimizer.param_groups, saved["groups"], strict=True):
        group.update({key: tuple(v) if isinstance(v, list) else v for key, v in numbers.items()})
    grid.common = _restore_batches("common", _select_on_device(path, tensors, grid.model), saved["common"])


def _restore_new(path: str, tensors: Mapping[str, Tensor], grid: Grid) -> Tensors:
    """Return the masks of new units and blocks. Files of older versions have none."""
    masks = _select_on_device(f"{path}/new", tensors, grid.model)
    check_same_tensors(
        {n: p for n, p in grid.smoother.named.items() if n in masks}, masks, f"the new units of level {path}"
    )
    return {name: mask.bool() for name, mask in masks.items()}


def _capture_moments(moments: Moments, path: str, tensors: Tensors) -> dict[str, dict[str, Any]]:
    """Write tensors among the moments under a path, and return the numbers among them by kind and name."""
    numbers: dict[str, dict[str, Any]] = {}
    for kind, vector in moments.items():
        numbers[kind] = {}
        for name, value in vector.items():
            if isinstance(value, Tensor):
                tensors[f"{path}/{kind}/{name}"] = value
            elif isinstance(value, (int, float, str)):
                numbers[kind][name] = value
            else:
                raise NetgraphError(
                    f"the optimizer keeps a {type(value).__name__} as {kind!r} of {name}, and a checkpoint can hold tensors and "
                    "numbers alone. Take another optimizer, or train without checkpoints."
                )
    return numbers


def _restore_moments(path: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], grid: Grid) -> Moments:
    """Return the saved moments on the device of their parameters. Step counts, of no dimension, stay on the CPU."""
    moments: Moments = {}
    for kind, vector in numbers.items():
        saved, named = select_under(f"{path}/{kind}", tensors), grid.smoother.named
        moments[kind] = {**vector, **{n: t if t.ndim == 0 else t.to(named[n].device) for n, t in saved.items()}}
    return moments


def _capture_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a parameter group, to which some optimizers write more than a schedule does."""
    plain = (int, float, bool)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in group.items()
        if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(v, plain) for v in value))
    }


def _to_json_value(value: Any) -> Any:
    """Return a number of numpy or torch as one of Python, and any other value as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) in (1, ()) else str(value)
