"""A fuzz harness: `make fuzz` gives damaged and hostile inputs to everything that reads a user's words and files."""
