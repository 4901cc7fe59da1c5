"""Thin DAG files: one per policy spec, all made by `dags.factory`."""
