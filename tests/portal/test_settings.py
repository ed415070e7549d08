"""Production asks for what it needs, in words; and is safe."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.run import BASE_DIR, PRODUCTION


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", sorted(set(PRODUCTION) - {"SUBLET_LOCAL"}))
def test_a_missing_variable_is_named_with_advice(name):
    done = manage("check", **{**PRODUCTION, name: ""})
    assert done.returncode == 1
    assert done.stderr.startswith(f"Configuration: {name} is not set. Set it to ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SUBLET_HOLD_MINUTES", "soon", "SUBLET_HOLD_MINUTES is 'soon'"),
        ("SUBLET_HOLD_MINUTES", "0", "at least 1"),
        ("DATABASE_URL", "sqlite:///db.sqlite3", "PostgreSQL"),
    ],
)
def test_a_wrong_variable_is_named(name, value, said):
    done = manage("check", **{**PRODUCTION, name: value})
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_schema_change_needs_the_owners_address():
    done = manage("migrate", **PRODUCTION)
    assert done.returncode == 1
    assert "DATABASE_OWNER_URL" in done.stderr


def test_production_is_clean_under_deploy_checks():
    done = manage("check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)
    assert done.returncode == 0, done.stderr


def test_production_logs_json_and_keeps_local_conveniences_off():
    code = (
        "import json; from django.conf import settings as s; import logging\n"
        "print(json.dumps([s.DEBUG, s.SUBLET_AUTO_APPROVE, s.SUBLET_STAFF_NEED_MFA, s.SESSION_COOKIE_SECURE,"
        " s.MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN]))\n"
        "logging.getLogger('leases').warning('kept %s', 'here', extra={'lease': 'lse_1'})\n"
    )
    done = manage("shell", "--verbosity", "0", "-c", code, **PRODUCTION)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[false, false, true, true, false]"
    import json

    line = json.loads(done.stderr.strip().splitlines()[-1])
    assert (line["event"], line["level"], line["lease"]) == ("kept here", "warning", "lse_1")
