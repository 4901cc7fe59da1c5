"""Alerts: which there are, the same as rules for Prometheus, and who is notified.

May import `spec` and what stands below it, not `tracking`.
"""
