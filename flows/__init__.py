"""Comparisons as Prefect flows, and their command line: ``python -m flows``."""

import os

# Before mlflow, prefect and ray are imported: no telemetry, and an embedded server that may take
# its time where the disk is slow. A server that hangs or is away, MLflow's or Prefect's, costs some
# 40 seconds, not the minutes that they would wait. What the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PREFECT_CLIENT_MAX_RETRIES": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
