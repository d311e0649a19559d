"""Layers on packed rows: convolution, norm, attention, transformer and residual blocks. Knows torch, not diffusers."""
