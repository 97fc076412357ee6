"""Files on disk and in object stores: atomic writes, locks, and a cache of remote shards."""
