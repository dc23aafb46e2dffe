"""Write a network as a file that a runtime runs, and compare the file with the network before it stays.

The runtime answers the example, with one row and with one row more where the batch is free, and rows of real data where there are some.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraph.coarsen.network.compare_outputs import relative_error
from netgraph.coarsen.network.precision import bound_roundoff, find_half, find_half_casts
from netgraph.coarsen.runtimes.example_call import ExampleCall, read_call, read_data
from netgraph.coarsen.runtimes.formats import Run, RuntimeFormat, find_format
from netgraph.coarsen.runtimes.program import Program, export_program
from netgraph.coarsen.runtimes.result_names import flatten_tensors
from netgraph.errors import FileDiffersError, NetgraphError
from netgraph.io.files.atomic_writes import write_atomically
from netgraph.recording.graph_module import GraphNetwork
from netgraph.utils.module_state import set_training_mode
from netgraph.utils.preserved_state import preserve_attributes

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far the answers of a file are from those of its network.

    Parameters
    ----------
    rows : int
        Rows that both answered.
    relative : float
        Largest relative difference (2-norms) of an output.
    absolute : float
        Largest difference of two numbers.
    """

    rows: int
    relative: float
    absolute: float


@dataclass(frozen=True, kw_only=True)
class RuntimeReport:
    """What a file for a runtime holds, and how it was judged.

    Parameters
    ----------
    path : str
        The file.
    runtime : str
        The runtime that judged it.
    bytes : int
        Size of the file and of those that belong to it.
    inputs, outputs : list of dict
        ``name``, ``dtype`` and ``shape`` of each, with ``batch`` in the place of a free number of rows.
    batch : int or None
        Rows of every batch, None where their number is free.
    fixed_by : str
        Why the batch is fixed, where nobody asked for that.
    left_out : list of str
        Parts of the network's answer that are not in that of the file, because they are no tensors.
    details : dict
        What else is to be said, such as ``opset``.
    example, data : Comparison or None
        On random inputs of several sizes, and on real ones.
    tolerance : float
        Largest relative difference that passes.
    """

    path: str
    runtime: str
    bytes: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    batch: int | None
    fixed_by: str
    left_out: list[str]
    details: dict[str, Any]
    example: Comparison
    data: Comparison | None
    tolerance: float

    def as_data(self) -> dict[str, Any]:
        """Return the report as data for JSON."""
        return asdict(self)


def write_network(
    network: nn.Module,
    path: Path,
    example: Any,
    *,
    batch: int | None = None,
    data: Any = None,
    tolerance: float = TOLERANCE,
    aot: bool = False,
) -> RuntimeReport:
    """Write a network for a runtime, in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        It is left as it was.
    path : path
        Its suffix chooses the runtime (`netgraph.coarsen.runtimes.formats.FORMATS`).
    example : Tensor, tuple or dict
        Inputs as `netgraph.trace` takes them.
    batch : int, optional
        Rows of every batch. By default their number is free, where `torch.export` and the runtime can do that.
    data : Tensor, tuple or dict, optional
        Real inputs, nested like the example.
    tolerance : float, default=1e-4
        Largest relative difference between the answers of the file and of the network. In half precision its roundoff passes too.
    aot : bool, default=False
        Compile a ``.pt2`` file for this kind of machine.

    Returns
    -------
    RuntimeReport

    Raises
    ------
    NetgraphError
        A package is missing, or the runtime or `torch.export` does not take the network.
    FileDiffersError
        The file answers otherwise than the network. It is not left behind.
    """
    chosen = find_format(path, aot=aot)
    if batch is not None and batch < 1:
        raise NetgraphError(f"a batch of {batch} rows was asked for. Give 1 or more.")
    if not 0 <= tolerance < math.inf:
        raise NetgraphError(f"the tolerance {tolerance} is no relative error. Give a number of 0 or more.")
    call = read_call(example)
    rows = None if data is None else read_data(data, call)
    with preserve_attributes(network):
        set_training_mode(network, training=False)
        fixed = batch if batch or chosen.free_batch else max(call.n_rows, 1)
        program = export_program(network, call, fixed)
        reports: list[RuntimeReport] = []
        judge = _Judge(network, path, chosen, program, rows, _find_bound(network, program, tolerance), fixed != batch)
        write_atomically(lambda place: reports.append(judge.write(place)), path)
    return reports[0]


def _find_bound(network: nn.Module, program: Program, tolerance: float) -> float:
    """Return the tolerance, or the roundoff of a half precision where that is larger."""
    half = find_half([*network.parameters(), *network.buffers(), *program.results])
    if half is None and isinstance(network, GraphNetwork):
        half = find_half_casts(network)
    return bound_roundoff(half, tolerance)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Writes a file, and compares it with its network."""

    network: nn.Module
    path: Path
    chosen: RuntimeFormat
    program: Program
    data: ExampleCall | None
    tolerance: float
    fixed_by_runtime: bool

    def write(self, place: Path) -> RuntimeReport:
        """Write the file into a temporary folder and judge it there. Files that belong to it go to their places."""
        details = self.chosen.write(self.program, place)
        run = self.chosen.open(place, self.program)
        example = self._compare(run, self._list_calls(), "a random example")
        data = None if self.data is None else self._compare(run, self.data.split(self.program.batch), "the data")
        files = [place, *(place.with_suffix(ending) for ending in self.chosen.beside)]
        size = sum(file.stat().st_size for file in files)
        for file in files[1:]:
            write_atomically(partial(shutil.copyfile, file), self.path.with_name(file.name))
        fixed_by = self.program.fixed_by
        if self.fixed_by_runtime:
            fixed_by = f"{self.chosen.name} plans its memory ahead"
        return RuntimeReport(
            path=str(self.path), runtime=self.chosen.name, bytes=size, batch=self.program.batch, fixed_by=fixed_by,
            inputs=self._describe(self.program.inputs, flatten_tensors(self.program.call.arguments), taken=True),
            outputs=self._describe(self.program.outputs, self.program.results, taken=False),
            left_out=self.program.left_out, details=details, example=example, data=data, tolerance=self.tolerance,
        )  # fmt: skip

    def _list_calls(self) -> list[ExampleCall]:
        """Return the example, and where the batch is free also one row and one row more."""
        call = self.program.call
        sizes = [call.n_rows] if self.program.batch or not call.n_rows else [call.n_rows, 1, call.n_rows + 1]
        return [call.with_rows(n) for n in sizes]

    def _compare(self, run: Run, calls: Iterable[ExampleCall], what: str) -> Comparison:
        """Compare the answers of both.

        Raises
        ------
        FileDiffersError
        """
        rows, relative, absolute = 0, 0.0, 0.0
        for call in calls:
            args, kwargs = call.arguments
            with torch.no_grad():
                expected = [t.detach().cpu() for t in flatten_tensors(self.network(*args, **kwargs))]
            try:
                actual = run(flatten_tensors(call.arguments))
            except Exception as error:  # a runtime may fail in any way
                raise FileDiffersError(
                    f"{self.chosen.name} fails on {what} of {call.n_rows} rows ({error!s:.200}), which the network takes, so {self.path} "
                    "was not written. Fix the rows with --batch, or write another format."
                ) from error
            if [t.shape for t in expected] != [t.shape for t in actual]:
                relative = math.inf
            for a, b in zip(expected, actual, strict=False):
                relative = max(relative, relative_error(a, b) if a.shape == b.shape else math.inf)
                absolute = max(absolute, _find_largest(a, b) if a.shape == b.shape else math.inf)
            rows += max(call.n_rows, 1)
        if not rows:
            raise NetgraphError(f"{what} have fewer rows than a batch of {self.program.batch}. Give more.")
        if relative > self.tolerance:
            raise FileDiffersError(
                f"the answers of {self.chosen.name} to {what} are {relative:.1e} from those of the network (relative difference), and "
                f"{self.tolerance:.1e} passes, so {self.path} was not written. Write another format, or raise --tolerance."
            )
        return Comparison(rows=rows, relative=relative, absolute=absolute)

    def _describe(self, names: list[str], tensors: list[Tensor], *, taken: bool) -> list[dict[str, Any]]:
        """Return name, dtype and shape of each tensor that the file takes or returns."""
        shapes = _list_shapes(self.program, taken=taken)
        return [
            {"name": name, "dtype": str(t.dtype).removeprefix("torch."), "shape": shape}
            for name, t, shape in zip(names, tensors, shapes, strict=True)
        ]


def _list_shapes(program: Program, *, taken: bool) -> list[list[int | str]]:
    """Return the shapes of inputs or of outputs. A size that follows the batch is a text, such as ``batch`` or ``2*batch``."""
    signature = program.exported.graph_signature
    values = {node.name: node.meta.get("val") for node in program.exported.graph.nodes}
    taken_shapes, returned_shapes = (
        [values[name].shape for name in names if isinstance(values.get(name), Tensor)]
        for names in (signature.user_inputs, signature.user_outputs)
    )
    symbols = {str(n) for shape in taken_shapes for n in shape if not isinstance(n, int)}
    word = re.compile(rf"\b({'|'.join(map(re.escape, sorted(symbols)))})\b" if symbols else r"(?!)")
    return [
        [n if isinstance(n, int) else word.sub("batch", str(n)) for n in shape]
        for shape in (taken_shapes if taken else returned_shapes)
    ]


def _find_largest(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two numbers that are both finite."""
    difference = (a.to(torch.complex128 if a.is_complex() else torch.float64) - b.to(a.device)).abs()
    difference = difference[torch.isfinite(difference)]
    return float(difference.max()) if difference.numel() else 0.0
