"""How close sparse edits come to dense ones, on the embedded model: run with `python -m benchmarks.quality`."""
