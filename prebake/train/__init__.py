"""Stage 2: read shards and train a model.

`session` runs one training, `trainer` takes the steps, and `models` holds the networks. This package never imports
`prebake.precompute`.
"""
