"""Training: procedural scenes, and what is learned from them or from a user's own pictures."""
