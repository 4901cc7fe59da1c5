"""The stages of a release and of online learning, one module a task of the DAG.

A stage reads the artifacts that earlier stages left in the MLflow run, calls the libraries below, and writes its own
artifacts. It may import every other package of `tasks` but `cli`; no other package imports a stage. Where artifacts
lie in a run says `artifacts`.
"""
