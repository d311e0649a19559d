"""Token merging (ToMe): in a dense pass rows that are alike become one before attention, and rows again after it."""
