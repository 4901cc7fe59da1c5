"""What people read of a release: model card, plots, and the evidence bundle with its offline check.

May import `checklist` and what stands below it.
"""
