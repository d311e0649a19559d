"""Adapters: what other programs speak becomes a job, and its events become what they read."""
