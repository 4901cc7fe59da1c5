"""What a worker counts and samples: counters, histograms, drift of observations and actions.

May import `package`; neither `envelope` nor `store`.
"""
