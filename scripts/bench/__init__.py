"""Pieces of the benchmark scripts."""
