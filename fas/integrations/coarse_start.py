"""Nested iteration in somebody else's loop: their optimizer works on a coarse level first, then on finer ones.

The optimizer, its schedule and its settings stay theirs. Only the parameters in its groups are exchanged for those of another
level, which have the same names or fewer; weights go up as in `netgraph.fas.levels.nested_iteration`, moments as in `netgraph.fas.levels.moments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.optimizer import Optimizer

from netgraph.errors import NetgraphError
from netgraph.fas.levels.grid import Grid
from netgraph.fas.levels.maps import Maps, live_state
from netgraph.fas.levels.moments import carry_moments_up, read_moments, set_moments
from netgraph.fas.levels.nested_iteration import start_level
from netgraph.fas.levels.smoother import Smoother
from netgraph.fas.options import Options, Smoothing


class BorrowedSmoother(Smoother):
    """A level's smoother whose optimizer was made elsewhere.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    names : list of list of str
        Names of the parameters in each of its groups.
    smoothing : Smoothing
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, names: Sequence[Sequence[str]], smoothing: Smoothing
    ) -> None:
        own = dict(model.named_parameters())
        self.model, self.optimizer, self.options = model, optimizer, smoothing
        self.named = {name: own[name] for group in names for name in group if name in own}
        self.lr, self.scales = 1.0, [1.0]


class CoarseStart:
    """A level that an optimizer works on, the coarsest first.

    Parameters
    ----------
    maps : Maps
    optimizer : torch.optim.Optimizer
        Of the finest network's parameters; its groups are changed in place.
    begin : sequence of int
        Steps on level 1, level 2, and so on, before the finest level is trained.
    options : Options
        ``split`` and ``smoothing.moments`` count here.
    seed : int
        Of the noise that makes copies differ.

    Raises
    ------
    NetgraphError
        The optimizer has parameters that are not the finest network's, or there are more numbers than coarse levels.
    """

    def __init__(
        self, maps: Maps, optimizer: Optimizer, begin: Sequence[int], options: Options, seed: int = 7619
    ) -> None:
        n_coarse = len(maps.models) - 1
        if len(begin) > n_coarse or any(n < 0 for n in begin):
            raise NetgraphError(
                f"begin is {tuple(begin)}; give a number of steps, 0 or more, for each of at most {n_coarse} coarse levels"
            )
        self.maps, self.optimizer, self.begin, self.options, self.seed = maps, optimizer, tuple(begin), options, seed
        self.names = group_parameter_names(maps.models[0], optimizer)
        self.level = self.left = 0
        first = max((i for i, n in enumerate(begin, start=1) if n), default=0)
        self.switch_to_level(first, begin[first - 1] if first else 0)

    @property
    def model(self) -> nn.Module:
        """The network of the level at work."""
        return self.maps.models[self.level]

    @property
    def smoother(self) -> BorrowedSmoother:
        """The level at work, with the optimizer."""
        return BorrowedSmoother(self.model, self.optimizer, self.names, self.options.smoothing_of(self.level))

    def switch_to_level(self, level: int, left: int) -> None:
        """Give the optimizer a level's parameters, for so many steps; it keeps no moments."""
        if level == self.level:
            self.left = left
            return
        finest = self.maps.models[0]
        self.level, self.left = level, left
        parameter = next(finest.parameters())
        self.model.to(parameter.device).train(finest.training)
        own = dict(self.model.named_parameters())
        for group, names in zip(self.optimizer.param_groups, self.names, strict=True):
            group["params"][:] = [own[name] for name in names if name in own]
        self.optimizer.state.clear()

    def advance(self) -> bool:
        """Count a step, and go up where a level's steps are spent; tell whether that was so."""
        if self.level == 0:
            return False
        self.left -= 1
        moved = self.left <= 0
        while self.level and self.left <= 0:
            self._go_up()
        return moved

    def finish(self) -> None:
        """Go up to the finest level at once, whatever is left of other levels' steps."""
        while self.level:
            self._go_up()

    def state_dict(self) -> dict[str, Any]:
        """Return the level at work, what is left of its steps, and its weights where it is a coarse one."""
        weights = {n: t.clone() for n, t in live_state(self.model).items()} if self.level else {}
        return {"level": self.level, "left": self.left, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; the optimizer's own state is loaded after it."""
        self.switch_to_level(state["level"], state["left"])
        own = live_state(self.model)
        for name, tensor in state["weights"].items():
            own[name].copy_(tensor)

    def _go_up(self) -> None:
        below, coarse = self.smoother, self._grid(self.level)
        above = self.level - 1
        carried = self.options.smoothing_of(above).moments
        moments = carry_moments_up(self.maps, above, read_moments(below)) if carried else {}
        self.switch_to_level(above, self.begin[above - 1] if above else 0)
        start_level(self.maps, above, self._grid(above), coarse, self.options.split, self.seed)
        for parameter in below.named.values():
            parameter.grad = None
        set_moments(self.smoother, moments)

    def _grid(self, level: int) -> Grid:
        model = self.maps.models[level]
        return Grid(model, self.smoother, live_state(model, list(live_state(self.maps.models[0]))))


def group_parameter_names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each of an optimizer's groups.

    Raises
    ------
    NetgraphError
        A parameter is not the model's.
    """
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        strangers = sum(id(parameter) not in known for parameter in group["params"])
        if strangers:
            raise NetgraphError(
                f"{strangers} parameters in group {i} of the optimizer are not those of the hierarchy's finest network; "
                "make it of hierarchy.levels[0].model.parameters()"
            )
    return [[known[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
