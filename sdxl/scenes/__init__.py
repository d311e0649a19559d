"""Scenes that we draw ourselves: what the embedded model learns from, and what the demo and the benchmarks edit."""
