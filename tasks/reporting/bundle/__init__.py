"""The evidence bundle of a release: one archive that a third party can check offline.

`contents` writes it, `archive` is its format, `verify` reads it with nothing but the archive at hand.
"""
