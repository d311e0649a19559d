"""Measures how close sparse edits come to dense ones on the embedded model: `python -m benchmarks.quality`."""
