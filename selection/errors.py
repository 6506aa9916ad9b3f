"""What can go wrong for a user of `selection`, each a class of its own under one parent."""


class SelectionError(Exception):
    """Parent of every error this package raises on purpose: one sentence that says what, where and what to do."""


class StoreError(SelectionError):
    """The store cannot be opened, read or written."""


class RecommendationError(SelectionError):
    """Nothing can be recommended from what is stored."""
