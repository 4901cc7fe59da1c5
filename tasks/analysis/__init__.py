"""Whether a challenger may replace the champion: pure functions of stored evidence, without any input or output.

`judge` and `off_policy` stand on `sequential`. Imports nothing else of `tasks`, nothing of `bentos`, and no library
that reads or writes.
"""
