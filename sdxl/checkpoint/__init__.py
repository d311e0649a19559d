"""Checkpoints: the content of their files, and the models that are made from it."""
