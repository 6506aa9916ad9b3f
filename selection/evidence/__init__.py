"""Evidence: what was tuned on which task and how it went; the grid that makes it, and what others published."""
