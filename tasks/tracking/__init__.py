"""MLflow as the tasks use it: runs and artifacts of releases, registered models and their history.

May import `spec` and what stands below it, not `alerts`.
"""
