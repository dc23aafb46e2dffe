"""An exporter: the aggregate of each unit as a table.

The entry point in ``pyproject.toml`` has the name of the suffix: ``netgraph export model.pt net.csv`` and
``ng.export(hierarchy, "net.csv")`` write such a table.
"""

import csv
from pathlib import Path

from netgraph import Hierarchy


def write_csv(hierarchy: Hierarchy, path: Path) -> None:
    """Write a row for each unit that merges: the level, the axis, the unit of the level above and its aggregate.

    Parameters
    ----------
    hierarchy : Hierarchy
        The hierarchy to write.
    path : Path
        The file to write, in a temporary folder. netgraph moves it to its place when all is written.

    Examples
    --------
    >>> import torch
    >>> import netgraph as ng
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> write_csv(ng.build_hierarchy(model, torch.ones(1, 3), coarsener="adjacent"), Path("net.csv"))
    >>> Path("net.csv").read_text(encoding="utf-8").splitlines()
    ['level,axis,unit,aggregate', '1,0,0,0', '1,0,1,0', '1,0,2,1', '1,0,3,1']
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["level", "axis", "unit", "aggregate"])
        for number, level in enumerate(hierarchy.levels):
            for axis, transfer in level.transfers.items():
                table.writerows([number, axis, *row] for row in enumerate(transfer.aggregates.tolist()))
