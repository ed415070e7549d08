"""``manage.py audit``: counts, JSON, and an exit code that a pipeline can trust."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing.auditing import all_checks, audit_and_report
from portal.accounts.models import Event
from tests.billing.helpers import make_customer

EVERY = {
    *(f"C{n}" for n in range(1, 9)),
    *(f"P{n}" for n in range(1, 7)),
    *(f"M{n}" for n in range(1, 9)),
    *(f"V{n}" for n in range(1, 6)),
}


def run(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("audit", *arguments, stdout=out)
    except SystemExit as stop:
        return int(str(stop.code)), out.getvalue()
    return 0, out.getvalue()


def test_every_invariant_of_the_design_is_checked() -> None:
    assert {check.id for check in all_checks()} == EVERY


@pytest.mark.django_db(transaction=True)
def test_json_is_one_object_per_invariant() -> None:
    make_customer(funds="10")
    code, text = run("--json")
    rows = [json.loads(line) for line in text.splitlines()]
    assert code == 0
    assert {row["id"] for row in rows} == EVERY
    assert all({"id", "checked", "violations"} <= row.keys() for row in rows)
    assert next(row for row in rows if row["id"] == "M7")["checked"] == 1


@pytest.mark.django_db(transaction=True)
def test_a_violation_is_named_and_exits_1(superuser_sql: Any) -> None:
    organization = make_customer(funds="10")
    superuser_sql.execute(
        "UPDATE billing_billingaccount SET balance = 11 WHERE organization_id = %s", [organization.pk]
    )
    code, text = run()
    assert code == 1
    assert "FAIL  M7" in text
    code, text = run("--json", "--only", "m7")
    assert code == 1
    assert json.loads(text)["violations"] == 1
    assert run("--only", "C1")[0] == 0

    audit_and_report(now=timezone.now())
    assert Event.objects.get(kind="audit.violated").after == {"M7": 1}


@pytest.mark.django_db
def test_an_unknown_invariant_is_refused_by_name() -> None:
    with pytest.raises(CommandError, match="X9"):
        call_command("audit", "--only", "X9")
