"""Airlock DAGs of the policy spec policies/cartpole.yaml."""

from dags.factory import dags_of  # airflow dag

globals().update(dags_of("cartpole"))
