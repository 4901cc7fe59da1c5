"""Thin DAG files: one per policy spec, all made by `dags.factory`.

`release`, `monitor` and `learn` wire one DAG each, `params` is the trigger form, `schedules` what they share. May
import `plugins.operators` and `tasks`, nothing of `bentos`.
"""
