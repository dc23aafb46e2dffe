"""HIERARCHY to TRAINED NETWORK: the full approximation scheme (FAS), a nonlinear multigrid method, on levels of a network.

Names load on first use.
"""

from typing import TYPE_CHECKING

from netgraph.utils.public_names import load_on_first_use

if TYPE_CHECKING:
    from netgraph.fas.auto.choice import TrainingChoice as TrainingChoice
    from netgraph.fas.auto.choice import choose_training as choose_training
    from netgraph.fas.auto.switch import SwitchOnPlateau as SwitchOnPlateau
    from netgraph.fas.checkpoint.checkpoint import Checkpoints as Checkpoints
    from netgraph.fas.checkpoint.checkpoint import resume as resume
    from netgraph.fas.estimate.report import VarianceReport as VarianceReport
    from netgraph.fas.integrations.coarse_start import CoarseStart as CoarseStart
    from netgraph.fas.integrations.gradient_estimate import GradientEstimate as GradientEstimate
    from netgraph.fas.integrations.gradient_estimate import estimate_gradient as estimate_gradient
    from netgraph.fas.integrations.lightning import LightningCoarseStart as LightningCoarseStart
    from netgraph.fas.integrations.optimizer import Multigrid as Multigrid
    from netgraph.fas.integrations.transformers import TransformersCoarseStart as TransformersCoarseStart
    from netgraph.fas.ledger import Ledger as Ledger
    from netgraph.fas.levels.batch_resolution import restrict_batch as restrict_batch
    from netgraph.fas.levels.maps import Maps as Maps
    from netgraph.fas.monitoring.alert_rules import divergence as divergence
    from netgraph.fas.monitoring.alert_rules import memory as memory
    from netgraph.fas.monitoring.alert_rules import nonfinite as nonfinite
    from netgraph.fas.monitoring.alert_rules import plateau as plateau
    from netgraph.fas.monitoring.alert_rules import rejected as rejected
    from netgraph.fas.monitoring.alert_rules import throughput as throughput
    from netgraph.fas.monitoring.alerts import Alert as Alert
    from netgraph.fas.monitoring.alerts import make_command_action as make_command_action
    from netgraph.fas.monitoring.alerts import make_notify_action as make_notify_action
    from netgraph.fas.monitoring.alerts import parse_alerts as parse_alerts
    from netgraph.fas.monitoring.event_log import log_event as log_event
    from netgraph.fas.monitoring.history import History as History
    from netgraph.fas.monitoring.history import summarize_run as summarize_run
    from netgraph.fas.monitoring.mlflow_runs import read_mlflow_runs as read_mlflow_runs
    from netgraph.fas.monitoring.mlflow_tracking import MLflow as MLflow
    from netgraph.fas.monitoring.mlflow_tracking import tracking_uri as tracking_uri
    from netgraph.fas.monitoring.run_file import read_run as read_run
    from netgraph.fas.monitoring.run_file import write_run as write_run
    from netgraph.fas.options.all_options import Options as Options
    from netgraph.fas.options.groups import Adapt as Adapt
    from netgraph.fas.options.groups import Estimate as Estimate
    from netgraph.fas.options.groups import Gate as Gate
    from netgraph.fas.options.groups import Smoothing as Smoothing
    from netgraph.fas.options.groups import Split as Split
    from netgraph.fas.options.groups import Tau as Tau
    from netgraph.fas.options.groups import Tolerance as Tolerance
    from netgraph.fas.options.text import build_option_table as build_option_table
    from netgraph.fas.options.text import parse_options as parse_options
    from netgraph.fas.outcome import Outcome as Outcome
    from netgraph.fas.solver.problem import Objective as Objective
    from netgraph.fas.solver.problem import Problem as Problem
    from netgraph.fas.solver.problem import make_batch_loss as make_batch_loss
    from netgraph.fas.solver.run import Run as Run
    from netgraph.fas.solver.solution import Solution as Solution
    from netgraph.fas.solver.solver import FAS as FAS
    from netgraph.fas.solver.train_options import TrainOptions as TrainOptions

__getattr__, __dir__, __all__ = load_on_first_use(
    __name__,
    {
        "Adapt": "options.groups",
        "Alert": "monitoring.alerts",
        "build_option_table": "options.text",
        "Checkpoints": "checkpoint.checkpoint",
        "choose_training": "auto.choice",
        "CoarseStart": "integrations.coarse_start",
        "divergence": "monitoring.alert_rules",
        "Estimate": "options.groups",
        "estimate_gradient": "integrations.gradient_estimate",
        "FAS": "solver.solver",
        "Gate": "options.groups",
        "GradientEstimate": "integrations.gradient_estimate",
        "History": "monitoring.history",
        "Ledger": "ledger",
        "LightningCoarseStart": "integrations.lightning",
        "log_event": "monitoring.event_log",
        "make_batch_loss": "solver.problem",
        "make_command_action": "monitoring.alerts",
        "make_notify_action": "monitoring.alerts",
        "Maps": "levels.maps",
        "memory": "monitoring.alert_rules",
        "MLflow": "monitoring.mlflow_tracking",
        "Multigrid": "integrations.optimizer",
        "nonfinite": "monitoring.alert_rules",
        "Objective": "solver.problem",
        "Options": "options.all_options",
        "parse_alerts": "monitoring.alerts",
        "parse_options": "options.text",
        "plateau": "monitoring.alert_rules",
        "Problem": "solver.problem",
        "read_mlflow_runs": "monitoring.mlflow_runs",
        "read_run": "monitoring.run_file",
        "rejected": "monitoring.alert_rules",
        "resume": "checkpoint.checkpoint",
        "restrict_batch": "levels.batch_resolution",
        "Run": "solver.run",
        "Smoothing": "options.groups",
        "Outcome": "outcome",
        "Solution": "solver.solution",
        "Split": "options.groups",
        "SwitchOnPlateau": "auto.switch",
        "summarize_run": "monitoring.history",
        "Tau": "options.groups",
        "throughput": "monitoring.alert_rules",
        "Tolerance": "options.groups",
        "tracking_uri": "monitoring.mlflow_tracking",
        "TrainingChoice": "auto.choice",
        "TrainOptions": "solver.train_options",
        "TransformersCoarseStart": "integrations.transformers",
        "VarianceReport": "estimate.report",
        "write_run": "monitoring.run_file",
    },
    needs={"LightningCoarseStart": "lightning", "TransformersCoarseStart": "transformers"},
)
