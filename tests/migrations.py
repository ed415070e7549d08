"""Check that the models and the migrations agree."""

import sys

from tests.services import ensure_services

if __name__ == "__main__":
    ensure_services()
    sys.argv = ["manage.py", "makemigrations", "--check", "--dry-run"]
    import manage

    manage.main()
