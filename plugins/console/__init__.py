"""The console: what Airlock's policies do, as pages inside Airflow, for those who may read their DAGs."""
