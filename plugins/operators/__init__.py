"""Operators, links and triggers of the DAGs: a stage, the approval, the canary, the monitor, learning, the report.

They call `tasks` and turn its errors into Airflow's; nothing of the console is imported.
"""
