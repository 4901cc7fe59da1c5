"""Online learning: logged transitions become a dataset, a fine-tuned candidate, and evidence whether to release it.

May import `build` and what stands below it, not `canary`.
"""
