"""The budget of a session's recordings unless another is given. Importable without torch."""

BUDGET = "8GiB"
