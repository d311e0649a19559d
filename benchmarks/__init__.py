"""Benchmarks: each module prints a table and is run with `python -m benchmarks.<name>`."""
