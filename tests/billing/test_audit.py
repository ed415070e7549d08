"""M1-M8 find what is wrong in data that got past the guards, and nothing in good data."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from billing import invoicing, ledger, metering
from billing.audit import CHECKS
from tests.billing.helpers import deliver, make_booking, make_customer, make_rule
from tests.factories import NOW, make_fleet

START = NOW + timedelta(days=1)
JANUARY = datetime(2027, 1, 2, tzinfo=UTC)

BREAKS = {
    "M1": "UPDATE billing_posting SET amount = amount + 1 WHERE id = (SELECT min(id) FROM billing_posting)",
    "M2": "ALTER TABLE billing_entry DISABLE TRIGGER entry_append_only",
    "M3": "UPDATE billing_entry SET posted_at = posted_at + interval '10 years'",
    "M5": "UPDATE leases_allocation SET delivered = NULL",
    "M6": "UPDATE billing_invoice SET sequence = sequence + 8 WHERE sequence IS NOT NULL",
    "M7": "UPDATE billing_billingaccount SET balance = balance + 1",
    "M8": "UPDATE billing_billingaccount SET owed = owed + 1",
}


@pytest.fixture
def books(transactional_db):
    make_fleet(nodes=2)
    make_rule()
    for mode in ("prepaid", "postpaid"):
        customer = make_customer(funds="1000", mode=mode, credit="100")
        lease = make_booking(customer)
        deliver(lease, START)
    metering.meter_due(now=START + timedelta(hours=3))
    for draft in invoicing.draft_month(month=date(2026, 12, 1), now=JANUARY):
        invoicing.finalize(invoice_uid=draft.uid, actor=None, now=JANUARY)
    metering.meter_due(now=JANUARY)
    invoicing.draft_month(month=date(2026, 12, 1), now=JANUARY)
    ledger.close_period(month=date(2026, 12, 1), actor=None, now=JANUARY)


def violated():
    return {check.id: check.outcome() for check in CHECKS if check.outcome().violations}


def test_good_books_pass_and_every_check_looks_at_something(books):
    assert not violated()
    assert [check.id for check in CHECKS] == [f"M{number}" for number in range(1, 9)]
    assert all(check.outcome().checked > 0 for check in CHECKS)


@pytest.mark.parametrize("check", sorted(BREAKS))
def test_what_is_broken_is_found(books, superuser_sql, check):
    try:
        superuser_sql.execute("SET session_replication_role = replica")
        superuser_sql.execute(BREAKS[check])
        found = violated()
        assert check in found and found[check].examples
    finally:
        superuser_sql.execute("ALTER TABLE billing_entry ENABLE TRIGGER entry_append_only")


def test_an_invoice_that_lost_its_charges_is_found(books, superuser_sql):
    superuser_sql.execute("SET session_replication_role = replica")
    superuser_sql.execute("UPDATE billing_charge SET invoice_line_id = NULL")
    assert {"M6", "M8"} <= set(violated())


def test_a_late_posting_is_found(books, superuser_sql):
    superuser_sql.execute("SET session_replication_role = replica")
    superuser_sql.execute(
        "INSERT INTO billing_posting (entry_id, account_id, currency, amount)"
        " SELECT entry_id, account_id, currency, %s FROM billing_posting LIMIT 1",
        [Decimal(5)],
    )
    assert "M1" in violated()
