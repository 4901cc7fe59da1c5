"""From a training run or a zip to a package: training, export, variants, packaging.

`packaging` imports `variants`, which imports `export`, which imports `training`. May import `control` and what stands
below it.
"""
