"""Sources: where the images come from. Each module that reads one kind registers itself in `registry`."""

from prebake.precompute.sources.registry import check_name, dataset_names, load, sources

__all__ = ["check_name", "dataset_names", "load", "sources"]
