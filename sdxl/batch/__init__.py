"""The batch: a list of edits becomes a folder of pictures, and whoever dies on the way costs one row, for a while."""
