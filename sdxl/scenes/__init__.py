"""Scenes that we draw: the embedded model learns from them, the demo and the benchmarks edit them."""
