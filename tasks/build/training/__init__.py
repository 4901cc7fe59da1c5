"""Training, opening and evaluating Stable-Baselines3 models.

What is pickled in a zip is opened here, in `agent` and `pickles`, and nowhere else. Imports no other package of
`build`.
"""
