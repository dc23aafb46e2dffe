"""Nested iteration in a training loop that you already have: its optimizer works on coarse levels first, then on finer ones.

The optimizer, its settings and its schedule stay yours. Only the parameters in its groups are exchanged for those of another
level, which has the same names or fewer. Weights go up as in `netgraph.fas.levels.nested_iteration`, moments as in
`netgraph.fas.levels.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.growth import Growth, check_growth
from netgraph.fas.levels.maps import Maps, check_level, live_state
from netgraph.fas.levels.moments import set_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.options.all_options import Options
from netgraph.fas.options.groups import Smoothing
from netgraph.fas.saved_state import reading_state
from netgraph.optim.optimizers import needs_closure
from netgraph.utils.seeds import check_torch_seed


class BorrowedSmoother(Smoother):
    """A level's smoother on an optimizer that the user built.

    Parameters
    ----------
    model : torch.nn.Module
        Network of the level.
    optimizer : torch.optim.Optimizer
        The optimizer.
    names : list of list of str
        Names of the parameters in each of its groups.
    smoothing : Smoothing
        Options of the level.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, names: Sequence[Sequence[str]], smoothing: Smoothing
    ) -> None:
        parameters = dict(model.named_parameters())
        self.model, self.optimizer, self.options = model, optimizer, smoothing
        self.named = {name: parameters[name] for group in names for name in group if name in parameters}
        self.lr, self.scales = 1.0, [1.0]


class CoarseStart:
    """Let an optimizer work on coarse levels first, from the coarsest to the finest.

    A loop trains ``start.model`` with its own optimizer, and calls `advance` after each step.

    Parameters
    ----------
    maps : Maps
        The levels, such as ``HierarchyMaps(hierarchy)``.
    optimizer : torch.optim.Optimizer
        Optimizer of the finest network's parameters. Its groups are changed in place.
    begin : sequence of int
        Steps on level 1, level 2, and so on, before the finest level is trained.
    options : Options
        Options of the solver. Only ``split`` and ``smoothing.moments`` have an effect, without ``split.rewarm``.
    seed : int, default 7619
        Seed of the noise that makes copies of a unit differ.

    Raises
    ------
    NetgraphError
        The optimizer has parameters of another network, or ``begin`` has more numbers than there are coarse levels.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> from netgraph.fas import CoarseStart, Options
    >>> from netgraph.fas.levels.maps import HierarchyMaps
    >>> from netgraph.models import mlp
    >>> model, inputs = mlp((6, 8, 3)), torch.randn(4, 6)
    >>> hierarchy = ng.build_hierarchy(model, inputs, n_levels=2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> start = CoarseStart(HierarchyMaps(hierarchy), optimizer, [2], Options())
    >>> for _ in range(3):
    ...     start.model(inputs).square().mean().backward()
    ...     optimizer.step()
    ...     print(start.level, start.advance())
    1 False
    1 True
    0 False
    """

    def __init__(
        self, maps: Maps, optimizer: Optimizer, begin: Sequence[int], options: Options, seed: int = 7619
    ) -> None:
        n_coarse = len(maps.models) - 1
        if len(begin) > n_coarse or any(n < 0 for n in begin):
            raise NetgraphError(
                f"begin is {tuple(begin)}. Give a number of steps, 0 or more, for each of at most {n_coarse} coarse levels."
            )
        if any(begin) and needs_closure(optimizer):
            raise NetgraphError(
                f"{type(optimizer).__name__} cannot begin on coarse levels, because it keeps the parameters that it was built with. Take "
                "another optimizer, or ng.FAS, which builds one for each level."
            )
        if any(begin):
            check_growth(maps, options.split)
            if options.split.rewarm:
                raise NetgraphError(
                    "split.rewarm scales the steps of an optimizer, and here your loop takes them. Leave it out, or train with ng.FAS."
                )
        self.maps, self.optimizer, self.begin, self.options = maps, optimizer, tuple(begin), options
        self.seed = check_torch_seed(seed)
        self.names = group_parameter_names(maps.models[0], optimizer)
        self.level = self.left = 0
        first = max((i for i, n in enumerate(begin, start=1) if n), default=0)
        self.switch_to_level(first, begin[first - 1] if first else 0)

    @property
    def model(self) -> nn.Module:
        """Network of the current level."""
        return self.maps.models[self.level]

    @property
    def smoother(self) -> BorrowedSmoother:
        """Smoother of the current level, on the optimizer."""
        return BorrowedSmoother(self.model, self.optimizer, self.names, self.options.smoothing_of(self.level))

    def switch_to_level(self, level: int, left: int) -> None:
        """Give the optimizer the parameters of a level for ``left`` steps, and clear its moments."""
        if level == self.level:
            self.left = left
            return
        check_level(self.maps, level)
        finest = self.maps.models[0]
        self.level, self.left = level, left
        parameter = next(finest.parameters())
        self.model.to(parameter.device).train(finest.training)
        parameters = dict(self.model.named_parameters())
        for group, names in zip(self.optimizer.param_groups, self.names, strict=True):
            group["params"][:] = [parameters[name] for name in names if name in parameters]
        self.optimizer.state.clear()

    def advance(self) -> bool:
        """Count a step of the optimizer, and go up if the level's steps are spent.

        Returns
        -------
        bool
            True if the level has changed.
        """
        if self.level == 0:
            return False
        self.left -= 1
        moved = self.left <= 0
        while self.level and self.left <= 0:
            self._go_up()
        return moved

    def finish(self) -> None:
        """Go up to the finest level now, before the steps of coarse levels are spent."""
        while self.level:
            self._go_up()

    def state_dict(self) -> dict[str, Any]:
        """Return the current level, its remaining steps, and its weights if it is coarse."""
        weights = {n: t.clone() for n, t in live_state(self.model).items()} if self.level else {}
        return {"level": self.level, "left": self.left, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`. Load the state of the optimizer afterwards.

        Parameters
        ----------
        state : mapping
            A state from `state_dict`.
        """
        with reading_state("a coarse start on this hierarchy"):
            self.switch_to_level(state["level"], state["left"])
            tensors = live_state(self.model)
            for name, tensor in state["weights"].items():
                tensors[name].copy_(tensor)

    def _go_up(self) -> None:
        """Prolong weights and moments to the next finer level, and give the optimizer its parameters."""
        below, coarse = self.smoother, self._build_grid(self.level)
        above = self.level - 1
        carried = self.options.smoothing_of(above).moments
        moments = Growth(self.maps, above, self.options.split).carry_moments(below) if carried else {}
        self.switch_to_level(above, self.begin[above - 1] if above else 0)
        start_level(self.maps, above, self._build_grid(above), coarse, self.options.split, self.seed)
        for parameter in below.named.values():
            parameter.grad = None
        set_moments(self.smoother, moments)

    def _build_grid(self, level: int) -> Grid:
        model = self.maps.models[level]
        return Grid(model, self.smoother, live_state(model, list(live_state(self.maps.models[0]))))


def group_parameter_names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each group of an optimizer.

    Raises
    ------
    NetgraphError
        A parameter belongs to another network.
    """
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        unknown = sum(id(parameter) not in known for parameter in group["params"])
        if unknown:
            raise NetgraphError(
                f"{unknown} parameters in group {i} of the optimizer are not those of the hierarchy's finest network. "
                "Build the optimizer on hierarchy.levels[0].model.parameters()."
            )
    return [[known[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
