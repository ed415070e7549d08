#!/usr/bin/env python
"""Run a management command.

Commands that change the schema connect as the owner role; everything else runs
as ``sublet_app``, which owns nothing.
"""

import os
import sys
from pathlib import Path

OWNER_COMMANDS = {"migrate", "sqlmigrate", "dbshell", "flush", "squashmigrations"}
NOT_RUNNING = 'Sublet is not running on this machine: start it with "make run", then try this again.'


def looks_local() -> bool:
    """Tell whether this folder is used with `make run` rather than as a production install."""
    if os.environ.get("DATABASE_URL") or os.environ.get("SECRET_KEY"):
        return False
    return "SUBLET_HOME" in os.environ or (Path(__file__).resolve().parent / ".local").is_dir()


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    if len(sys.argv) > 1 and sys.argv[1] in OWNER_COMMANDS:
        os.environ.setdefault("SUBLET_DB_ROLE", "owner")
    if "SUBLET_LOCAL" not in os.environ and looks_local():
        os.environ["SUBLET_LOCAL"] = "1"

    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Configuration: {error}")
    except OperationalError:
        from django.conf import settings

        if settings.SUBLET_LOCAL_STOPPED:
            sys.exit(NOT_RUNNING)
        raise


if __name__ == "__main__":
    main()
