"""How a database of an older schema becomes one of today: a file for each step, run by Alembic.

A step is named by the version of the schema that it leads to. Versions are also kept in the table `schema`, where
packages from before Alembic look, and refuse what is newer than they are.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sql


def upgrade(connection: sql.Connection, version: int) -> None:
    """Bring a database of that version of the schema up to date, inside the connection's transaction."""
    from alembic import command  # most stores are up to date, and loading it takes longer than opening one
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.stamp(config, str(version), purge=True)
    command.upgrade(config, "head")
