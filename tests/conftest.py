"""Fixtures for every test. The services come up with the settings: see ``tests/services.py``."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connections
from django.test import TransactionTestCase

from portal.local.process import Child, stop_all
from portal.local.valkey import free_port
from tests import database
from tests.contract.prism import _documents_agree, prism  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: Any) -> Iterator[None]:
    """Make the database as superuser, migrate it as its owner, and connect as ``sublet_app``."""
    name = f"test_{connections['default'].settings_dict['NAME']}"
    database.create(name)
    with django_db_blocker.unblock():
        connections["default"].close()
        settings.DATABASES["default"]["NAME"] = name
        connections["default"].settings_dict["NAME"] = name
    yield
    with django_db_blocker.unblock():
        connections.close_all()
    database.drop(name)


@pytest.fixture(autouse=True, scope="session")
def _flush_as_superuser() -> None:
    """After a test that commits, empty the database in a way that its triggers cannot refuse."""

    def teardown(self: TransactionTestCase) -> None:
        database.flush(str(connections["default"].settings_dict["NAME"]))

    TransactionTestCase._fixture_teardown = teardown  # type: ignore[attr-defined]


@pytest.fixture
def superuser_sql(transactional_db: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A superuser's own connection to the test database, committing each statement: for breaking invariants."""
    with database.superuser(str(connections["default"].settings_dict["NAME"])) as connection:
        yield connection


@pytest.fixture(scope="session")
def _moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    child = Child(
        "moto",
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        log=Path(tmp_path_factory.mktemp("moto")) / "moto.log",
    )
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/data.json", timeout=5).close()
            break
        except OSError:
            if not child.running() or time.monotonic() > deadline:
                raise RuntimeError(f"moto did not start:\n{child.tail()}") from None
            time.sleep(0.1)
    yield endpoint
    stop_all([child], patience=3)


@pytest.fixture
def moto_ec2(_moto_server: str) -> str:
    """The endpoint of an EC2-compatible server on loopback, empty at the start of each test."""
    request = urllib.request.Request(f"{_moto_server}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=10).close()
    return _moto_server
