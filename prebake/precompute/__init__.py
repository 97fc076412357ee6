"""Stage 1: read images, augment them once per epoch, and write shards.

`sources` reads the images, `augment` makes the views, and `bake` writes the shards. This package never imports
`prebake.train`.
"""
