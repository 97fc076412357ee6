"""Tests with hostile and damaged files."""
