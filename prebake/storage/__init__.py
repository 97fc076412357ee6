"""Files on disk and in object stores: atomic writes, locks, cache."""
