"""Configs as older versions wrote them."""

from __future__ import annotations

import json

import sqlalchemy as sql

from selection.store.trial import config_of_version_0_1


def write_configs_out(connection: sql.Connection) -> None:
    """Say in every config what was done where there was no choice when it was stored."""
    stored = sql.table("trials", sql.column("id"), sql.column("config"))
    for row in connection.execute(sql.select(stored.c.id, stored.c.config)).all():
        config = json.dumps(config_of_version_0_1(json.loads(row.config)), sort_keys=True)
        if config != row.config:
            connection.execute(sql.update(stored).where(stored.c.id == row.id).values(config=config))
