"""The shard format: records, shards, index and manifest.

`FORMAT.md` in this directory is the specification. The modules need NumPy and xxhash only.
"""
