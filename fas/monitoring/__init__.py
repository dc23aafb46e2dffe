"""History, logs, alerts, MLflow: the events of a run and their receivers."""
