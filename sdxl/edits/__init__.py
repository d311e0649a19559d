"""Edits: a request goes in, a result comes out."""
