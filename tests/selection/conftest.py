import os
import uuid

import pytest
import sqlalchemy as sql

from selection import Cluster, TaskStore


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What is measured in tests is not kept for the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


POSTGRES = "TASK2VEC_POSTGRES"


@pytest.fixture(params=["file", "memory", "postgres"])
def store(request, tmp_path):
    """An empty store of each kind. PostgreSQL is that of the URL in TASK2VEC_POSTGRES, in a database of its own."""
    if request.param == "postgres":
        yield from _on_postgres(tmp_path)
    else:
        yield TaskStore(tmp_path / "tasks.db" if request.param == "file" else None, files=tmp_path / "files")


@pytest.fixture
def postgres(tmp_path):
    """An empty store on PostgreSQL."""
    yield from _on_postgres(tmp_path)


def _on_postgres(tmp_path):
    url = os.environ.get(POSTGRES)
    if not url:
        pytest.skip(f"no PostgreSQL; set {POSTGRES} to the URL of one that may be written to, as .ci/run does")
    name = f"task2vec_{uuid.uuid4().hex}"
    server = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    own = sql.make_url(url).set(database=name).render_as_string(hide_password=False)
    opened = TaskStore(own, files=tmp_path / "files")
    yield opened
    opened.close()
    with server.connect() as connection:
        connection.execute(sql.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two CPUs on this machine, for all tests that need one."""
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]'")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        # By default Ray's workers run at niceness 15: beside the other half of the tests they would hardly run.
        _system_config={"worker_niceness": 0},
    )
    yield Cluster()
    ray.shutdown()
