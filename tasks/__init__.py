"""The work of a release as typed functions: plain arguments in, small JSON-able results out."""
