"""Whether a challenger may replace the champion: pure functions of stored evidence, without any input or output."""
