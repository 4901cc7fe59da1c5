"""The `airlock` commands, by what they are about."""
