"""The gateway beside what one would serve the same policy with instead: `python -m benchmarks.serving`."""
