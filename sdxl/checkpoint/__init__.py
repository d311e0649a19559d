"""Checkpoints: what a file holds, and how it becomes models."""
