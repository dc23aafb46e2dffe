"""Read runs back from MLflow: from their artefact ``run.json``, or from their metrics if there is none."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from netgraph.environment.optional_packages import import_package
from netgraph.errors import LoadError
from netgraph.fas.monitoring.history import History
from netgraph.fas.monitoring.mlflow_tracking import hide_password, limit_mlflow_retries, tracking_uri
from netgraph.fas.monitoring.run_file import NAME, read_run

SMOOTH, WAY_DOWN, WAY_UP = ("loss", "lr"), ("gap", "tau", "restricted", "gradient"), ("length", "angle")
Series = Mapping[str, Mapping[int, float]]  # a metric by its name: value by step


def read_mlflow_runs(word: str, *, timeout: float = 10.0) -> list[History]:
    """Read the runs of an MLflow run id or experiment.

    Parameters
    ----------
    word : str
        Id of a run, or name of an experiment. The runs of an experiment come oldest first.
    timeout : float, default 10
        Seconds to wait for a server.

    Returns
    -------
    list of History
        The runs.

    Raises
    ------
    LoadError
        The store has no such run or experiment, does not answer, or a run has no history.

    Examples
    --------
    >>> from netgraph.fas import read_mlflow_runs
    >>> histories = read_mlflow_runs("digits")  # doctest: +SKIP
    """
    mlflow = import_package("mlflow", "reading a tracked run")
    uri = tracking_uri()
    _check_store_exists(uri, word)
    with limit_mlflow_retries(timeout):
        client = mlflow.MlflowClient(tracking_uri=uri)
        try:
            runs = _find_runs(client, word)
            if not runs:
                raise LoadError(
                    f"no run is called {word!r}. There is no such folder or file here, and {hide_password(uri)} has no such run, "
                    "and no such experiment with runs."
                )
            return [_read_history(client, run) for run in runs]
        except mlflow.exceptions.MlflowException as error:
            reason = str(error).partition("\n")[0][:200]
            raise LoadError(
                f"the tracking store {hide_password(uri)} does not give {word!r} ({reason}). Check MLFLOW_TRACKING_URI."
            ) from error


def _check_store_exists(uri: str, word: str) -> None:
    """Raise an error if the store is a file that does not exist, because MLflow would create it."""
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():
        raise LoadError(
            f"no run is called {word!r}. There is no such folder or file here, and no {path}. Give a folder that "
            "`netgraph train --report` wrote, or set MLFLOW_TRACKING_URI."
        )


def _find_runs(client: Any, word: str) -> list[Any]:
    """Return MLflow's runs of an experiment, or the one run of an id."""
    import mlflow

    experiment = client.get_experiment_by_name(word)
    if experiment is not None:
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))
    try:
        return [client.get_run(word)]
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return []
        raise


def _read_history(client: Any, run: Any) -> History:
    """Return the history of one of MLflow's runs."""
    name, run_id = run.info.run_name or run.info.run_id, run.info.run_id
    if any(item.path == NAME for item in client.list_artifacts(run_id)):
        with tempfile.TemporaryDirectory() as folder:
            history = read_run(client.download_artifacts(run_id, NAME, folder))
        return History(name, history.records, history.costs, history.facts)
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    # the first of two values at one step counts: it is the cost in the record of the step itself
    series = {key: {m.step: m.value for m in reversed(client.get_metric_history(run_id, key))} for key in names}
    records = sorted(_rebuild_records(series), key=lambda record: record["step"])
    if not records:
        raise LoadError(
            f"the run {name} ({run_id}) has no history in MLflow. netgraph did not train it, or it has not begun."
        )
    facts = {"network": run.data.params.get("network"), "data": run.data.params.get("data")}
    return History(
        name, records, (), {**facts, "reason": run.data.tags.get("netgraph.reason", run.info.status.lower())}
    )


def _rebuild_records(series: Series) -> Iterator[dict[str, Any]]:
    """Yield a record for each level, event and step that was sent. Costs are interpolated linearly between sent values."""
    costs = {name: np.array(sorted(series.get(name, {}).items()), dtype=float) for name in ("seconds", "flops")}

    def record(event: str, level: int, step: int, **values: Any) -> dict[str, Any]:
        spent = {k: float(np.interp(step, *v.T)) if len(v) else float("nan") for k, v in costs.items()}
        return {"event": event, "level": level, "step": step, **spent, **values}

    for names, event in ((SMOOTH, "smooth"), (WAY_DOWN, "down"), (WAY_UP, "up")):
        figures: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
        for name in names:
            for key in (key for key in series if key.startswith(f"{name}/level_")):
                level = int(key.rpartition("_")[2])
                for step, value in series[key].items():
                    figures[level, step][name] = value
        for (level, step), values in figures.items():
            skipped = event == "down" and series.get(f"not_begun/level_{level}", {}).get(step, 0.0) > 0
            yield record("skip" if skipped else event, level, step, **values)
    valid = {key.removeprefix("valid/"): values for key, values in series.items() if key.startswith("valid/")}
    for step in sorted({step for values in valid.values() for step in values}):
        yield record("evaluate", 0, step, figures={name: v[step] for name, v in valid.items() if step in v})
