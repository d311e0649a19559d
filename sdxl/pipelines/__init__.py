"""Diffusers' pipelines: built from checkpoints, with the schedulers, adapters and mended faults that edits need."""
