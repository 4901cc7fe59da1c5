"""The embedded stack: Airflow, MLflow and the gateway on this machine, under supervisord.

`lifecycle` starts and stops it, `environment` holds its variables. Nothing is imported here: every supervised process
begins in `processes` and should not wait for what it does not need. May import `control` and what stands below it, not
`build`.
"""
