"""The audit of V1-V5 sees each invariant when it is broken behind the product's back."""

from __future__ import annotations

from typing import Any

import pytest

from billing.models import Finding, VendorBill
from billing.vendor import approval, audit, findings
from tests.billing.vendor.fleet import LATER, at, hours, make_run, reconcile
from tests.factories import make_fleet

pytestmark = pytest.mark.django_db(transaction=True)

BROKEN = [
    ("V1", "UPDATE billing_billline SET line_class = '' WHERE ordinal = 2"),
    ("V1", "UPDATE billing_billline SET line_class = 'perhaps' WHERE ordinal = 2"),
    ("V1", "UPDATE billing_billline SET cost = cost + 0.00000000000000000001 WHERE ordinal = 2"),
    ("V1", "DELETE FROM billing_billline WHERE ordinal = 2"),
    ("V2", "DELETE FROM billing_billrow WHERE ordinal = 2"),
    ("V2", "UPDATE billing_vendorbill SET state = 'replaced'"),
    ("V3", "UPDATE billing_billline SET finding_id = NULL"),
    ("V3", "UPDATE billing_finding SET state = 'cured'"),
    ("V3", "UPDATE billing_finding SET line_count = 9"),
    ("V4", "UPDATE billing_finding SET state = 'open', settled_at = NULL"),
    ("V5", "UPDATE billing_upstreamaccrual SET amount = amount + 1"),
    ("V5", "DELETE FROM billing_upstreamaccrual"),
    ("V5", "UPDATE billing_vendorbill SET entry_id = NULL"),
]


@pytest.mark.parametrize(("broken", "statement"), BROKEN)
def test_a_broken_invariant_is_reported(superuser_sql: Any, broken: str, statement: str) -> None:
    fleet = make_fleet(nodes=1, payment="hourly", reservation_id="cr-1")
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 10), provider_id="i-1")
    bill = reconcile(fleet.account, hours(at(2), at(2, 12), ResourceId="i-1"))
    findings.settle(finding_uid=Finding.objects.get().uid, decision="accept", note="x", actor=None, now=LATER)
    approval.approve(bill_uid=bill.uid, actor=None, now=LATER)
    assert VendorBill.objects.get().state == "approved"
    assert [check.outcome().violations for check in audit.CHECKS] == [0, 0, 0, 0, 0]
    superuser_sql.execute("SET session_replication_role = replica")
    superuser_sql.execute(statement)
    assert {check.id for check in audit.CHECKS if check.outcome().violations} >= {broken}
