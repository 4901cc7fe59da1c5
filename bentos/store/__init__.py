"""Airlock's database: tables and migrations, the group-commit writer, starts, outcomes, events, retention.

May import `package`; neither `envelope` nor `telemetry`.
"""
