"""Connections to the database: SQLite in write-ahead mode, or PostgreSQL behind a URL.

Several processes may write at once. SQLite's writers wait for each other from the beginning of their transaction:
had they begun by reading, two of them could each wait for the other to stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from selection.errors import StoreError

WAIT = 60.0  # seconds that a writer waits for the others, and everybody for a server that went away
KINDS = ("sqlite", "postgresql")
WRITES = "task2vec_writes"  # the option that marks transactions that write
ALONE = "task2vec_alone"  # the option that marks statements that must not be in a transaction
OPENING = 0x7A5C2EC  # PostgreSQL's lock for making and migrating tables, any number that others do not use


def open_engine(location: str | Path | None) -> sql.Engine:
    """An engine for a SQLite file, the URL of a SQLite or PostgreSQL database, or a database in memory.

    Raises:
        StoreError: the URL is that of another kind of database.
    """
    if location is None:
        # A database in memory lives in its one connection, which threads take in turn.
        engine = sql.create_engine(
            "sqlite://",
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=WAIT,
            connect_args={"check_same_thread": False},
        )
    elif "://" in str(location):
        kind = sql.make_url(str(location)).get_backend_name()
        if kind not in KINDS:
            raise StoreError(f"{kind} is no kind of store; give a URL of {' or '.join(KINDS)}")
        waiting = {"timeout": WAIT} if kind == "sqlite" else {}
        engine = sql.create_engine(str(location), pool_pre_ping=True, connect_args=waiting)
    else:
        path = Path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = sql.create_engine(sql.URL.create("sqlite", database=str(path)), connect_args={"timeout": WAIT})
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _configure_sqlite)
        sql.event.listen(engine, "begin", _begin_sqlite)
    return engine


def sqlite_file(location: str | Path) -> Path | None:
    """The file that a location stands for; None for a database that is served, or is in memory.

    Raises:
        sqlalchemy.exc.ArgumentError: it is no URL.
    """
    if "://" not in str(location):
        return Path(location)
    url = sql.make_url(str(location))
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def lock_for_opening(connection: sql.Connection) -> None:
    """Let nobody else make or migrate tables until the transaction ends; SQLite's writing transactions do anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sql.text(f"SELECT pg_advisory_xact_lock({OPENING})"))


@contextmanager
def connected(engine: sql.Engine) -> Iterator[sql.Connection]:
    """A connection; a server that does not answer may be starting again, and is asked for a minute.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: there is none to be had.
    """
    deadline = time.monotonic() + WAIT
    while True:
        try:
            connection = engine.connect()
            break
        except OperationalError:
            if engine.dialect.name == "sqlite" or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with connection:
        yield connection


def is_lost(error: Exception) -> bool:
    """Whether the connection broke, so that a later attempt may get a new one."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver leaves BEGIN to `_begin_sqlite`
    cursor = connection.cursor()
    tables = [name for (name,) in cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if tables and "schema" not in tables:
        return  # somebody else's database stays as it is
    deadline = time.monotonic() + WAIT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:
            # Two processes that make the same new file: SQLite does not wait here by itself.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sql.Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(ALONE):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITES) else "BEGIN")
