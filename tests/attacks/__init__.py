"""Hostile and damaged files."""
