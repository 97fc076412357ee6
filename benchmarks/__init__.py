"""Benchmarks: each module answers one question. docs/benchmarks.md lists them."""
