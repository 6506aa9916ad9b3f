"""The first schema, of which there are stores in SQLite only."""

revision, down_revision = "1", None


def upgrade() -> None:
    """Nothing: whoever has it was made with it."""
