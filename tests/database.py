"""The test database: made by the superuser, migrated by its owner, used as ``sublet_app``.

So triggers, constraints and revoked rights bite in tests as they do in production.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

BASE_DIR = Path(__file__).resolve().parent.parent
# Rows that migrate itself writes; everything else that a migration seeds is put back after a flush.
KEPT = ("django_migrations", "django_content_type", "auth_permission")


def url_for(variable: str, database: str) -> str:
    """Return the address in ``variable``, with another database name."""
    if not os.environ.get(variable):
        raise RuntimeError(
            f"Set {variable} beside DATABASE_URL: tests need the owner's and the superuser's address too."
        )
    return urlunsplit(urlsplit(os.environ[variable])._replace(path=f"/{database}"))


def superuser(database: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open a connection that no right and, if it asks so, no trigger stops."""
    return psycopg.connect(url_for("DATABASE_SUPERUSER_URL", database), autocommit=True)


def _fingerprint() -> str:
    """Return a text that changes with anything that the migrated database depends on."""
    digest = hashlib.sha256()
    files = [*BASE_DIR.glob("*/migrations/*.py"), *BASE_DIR.glob("portal/*/migrations/*.py")]
    for path in [BASE_DIR / "requirements.txt", BASE_DIR / "tests/database.py", *sorted(files)]:
        digest.update(str(path.relative_to(BASE_DIR)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def create(name: str) -> None:
    """Make the test database ``name``, copying the migrated one that an earlier session left."""
    template = f"migrated_{_fingerprint()}"
    with superuser("postgres") as connection:
        known = {
            str(row[0])
            for row in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'migrated%'")
        }
        if template not in known:
            for old in known:
                _drop(connection, old)
            unfinished = f"migrating_{os.getpid()}"
            _drop(connection, unfinished)
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER sublet_owner").format(sql.Identifier(unfinished))
            )
            _migrate(unfinished)
            connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(unfinished), sql.Identifier(template)
                )
            )
        _drop(connection, name)
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER sublet_owner TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )


def drop(name: str) -> None:
    with superuser("postgres") as connection:
        _drop(connection, name)


def _drop(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _migrate(name: str) -> None:
    with superuser(name) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    done = subprocess.run(
        [sys.executable, str(BASE_DIR / "manage.py"), "migrate", "--noinput", "--verbosity", "0"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "DATABASE_URL": url_for("DATABASE_URL", name),
            "DATABASE_OWNER_URL": url_for("DATABASE_OWNER_URL", name),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"migrate failed:\n{done.stdout}{done.stderr}")
    with superuser(name) as connection:
        connection.execute("CREATE SCHEMA seed")
        for table in _filled_tables(connection):
            connection.execute(
                sql.SQL("CREATE TABLE seed.{0} AS TABLE public.{0}").format(sql.Identifier(table))
            )


def _filled_tables(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    tables = [
        str(row[0])
        for row in connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)",
            [list(KEPT)],
        )
    ]
    if not tables:
        return []
    asked = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM public.{})").format(
            sql.Literal(table), sql.Identifier(table)
        )
        for table in tables
    )
    return [str(row[0]) for row in connection.execute(asked)]


def flush(name: str) -> None:
    """Empty every table and put the seeded rows back.

    As superuser under ``session_replication_role = replica``: the product's role may
    not, and the triggers that protect the ledger would refuse. DELETE and not
    TRUNCATE, which waits for every open transaction and is slower on small tables.
    """
    with superuser(name) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in _filled_tables(connection):
            connection.execute(sql.SQL("DELETE FROM public.{}").format(sql.Identifier(table)))
        seeded = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'seed'").fetchall()
        for (table,) in seeded:
            columns = connection.execute(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'",
                [table],
            ).fetchall()
            connection.execute(
                sql.SQL(
                    "INSERT INTO public.{0} ({1}) OVERRIDING SYSTEM VALUE SELECT {1} FROM seed.{0}"
                ).format(
                    sql.Identifier(str(table)),
                    sql.SQL(", ").join(sql.Identifier(str(row[0])) for row in columns),
                )
            )
