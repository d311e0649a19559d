"""The front: what stands before the app, and turns away what should never reach it."""
