"""Another tenant's quotes and invoices do not exist; drafts are staff's."""

from datetime import UTC, date, datetime, timedelta

import pytest

from billing import access, invoicing, metering
from billing.history import invoices_of
from portal.common.errors import Forbidden, NotFound
from tests.billing.helpers import deliver, make_booking, make_customer, make_quote, make_rule
from tests.factories import NOW, make_fleet, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db

START = NOW + timedelta(days=1)
JANUARY = datetime(2027, 1, 2, tzinfo=UTC)


@pytest.fixture
def customer():
    make_fleet(nodes=2)
    make_rule()
    return make_customer(funds="5000")


@pytest.fixture
def draft(customer):
    deliver(make_booking(customer), START)
    metering.meter_due(now=JANUARY)
    return invoicing.draft_month(month=date(2026, 12, 1), now=JANUARY)[0]


def member(organization, role):
    return make_membership(organization=organization, role=role).user


@pytest.mark.parametrize(
    ("role", "may"),
    [("owner", True), ("admin", True), ("billing", True), ("member", False), ("viewer", False)],
)
def test_invoices_need_the_billing_permission(customer, draft, role, may):
    invoice = invoicing.finalize(invoice_uid=draft.uid, actor=None, now=JANUARY)
    user = member(customer, role)
    if may:
        assert access.invoice_for(user=user, uid=invoice.uid) == invoice
    else:
        with pytest.raises(Forbidden):
            access.invoice_for(user=user, uid=invoice.uid)


def test_drafts_are_not_shown(customer, draft):
    with pytest.raises(NotFound):
        access.invoice_for(user=member(customer, "owner"), uid=draft.uid)
    assert not invoices_of(user=member(customer, "owner"), organization=customer).exists()


def test_others_see_nothing(customer, draft):
    invoice = invoicing.finalize(invoice_uid=draft.uid, actor=None, now=JANUARY)
    quote = make_quote(customer)
    stranger = make_user()
    rival = member(make_organization(), "owner")
    for user in (stranger, rival):
        with pytest.raises(NotFound):
            access.invoice_for(user=user, uid=invoice.uid)
        with pytest.raises(NotFound):
            access.quote_for(user=user, uid=quote.uid)


def test_quotes_are_seen_by_all_and_accepted_by_those_who_lease(customer):
    quote = make_quote(customer)
    viewer = member(customer, "viewer")
    assert access.quote_for(user=viewer, uid=quote.uid) == quote
    with pytest.raises(Forbidden):
        access.quote_for(user=viewer, uid=quote.uid, permission="lease")
    both = member(customer, "member")
    make_membership(organization=make_organization(), user=both)
    with pytest.raises(NotFound):  # a token of the other organization
        access.quote_for(
            user=both, uid=quote.uid, organization=both.memberships.order_by("pk").last().organization
        )
