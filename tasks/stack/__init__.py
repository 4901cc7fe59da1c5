"""The embedded stack: Airflow, MLflow and the gateway on this machine, under supervisord."""

from tasks.stack.environment import airflow_environment
from tasks.stack.errors import StackError
from tasks.stack.lifecycle import Running, down, up

__all__ = ["Running", "StackError", "airflow_environment", "down", "up"]
