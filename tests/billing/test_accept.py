"""Quote and accept: capacity and funds change together or not at all."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import accounts, checkout
from billing.models import FundsHold, Quote
from leases import lifecycle
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease, Term
from portal.accounts.idempotency import RequestKeyReused
from portal.accounts.models import Organization
from portal.accounts.organizations import NotApproved
from portal.common.errors import Forbidden, InvalidInput, NotFound
from tests.billing.helpers import (
    account_of,
    make_booking,
    make_customer,
    make_quote,
    make_rule,
    money_snapshot,
)
from tests.factories import NOW, make_fleet, make_organization, make_user

pytestmark = pytest.mark.django_db

PRICE = Decimal(2) * 8 * 24  # one node of 8 GPUs for a day


@pytest.fixture(autouse=True)
def _fleet_and_price():
    make_fleet(nodes=2)
    make_rule()


def accept(quote, now=NOW, **more):
    return checkout.accept(quote_uid=quote.uid, organization=quote.organization, actor=None, now=now, **more)


def test_a_quote_holds_capacity_and_says_what_it_costs():
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    assert quote.total == PRICE == quote.due_now and quote.due_later == 0
    assert quote.expires_at == NOW + timedelta(minutes=15) == quote.lease.deadline
    assert quote.lease.state == Lease.State.HELD and quote.lease.allocations.count() == 1
    term = Term.objects.get(lease=quote.lease)
    assert (term.rate_per_gpu_hour, term.currency, term.quote_uid) == (Decimal(2), "USD", quote.uid)
    assert account_of(customer).reserved == 0
    funds = checkout.funds_for(quote)
    assert (funds.needed, funds.spendable, funds.missing) == (PRICE, Decimal(1000), 0)


def test_accepting_reserves_the_funds_and_schedules_the_lease():
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    person = make_user()
    lease = checkout.accept(quote_uid=quote.uid, organization=customer, actor=person, now=NOW)
    assert lease.state == Lease.State.SCHEDULED and lease.deadline is None
    account = account_of(customer)
    assert (account.balance, account.reserved, account.spendable) == (1000, PRICE, 1000 - PRICE)
    hold = FundsHold.objects.get(lease=lease)
    assert hold.amount == hold.remaining == PRICE
    quote.refresh_from_db()
    assert (quote.state, quote.accepted_by, quote.accepted_at) == (Quote.State.ACCEPTED, person, NOW)


def test_without_funds_nothing_changes():
    customer = make_customer(funds="383.99")
    quote = make_quote(customer)
    before = money_snapshot()
    with pytest.raises(checkout.InsufficientFunds) as refused:
        accept(quote)
    assert refused.value.status == 402 and refused.value.code == "insufficient-funds"
    assert refused.value.extra["missing"] == {"amount": "0.01000000", "currency": "USD"}
    assert "$0.01" in refused.value.message
    assert money_snapshot() == before


def test_postpaid_customers_spend_their_credit():
    customer = make_customer(mode="postpaid", credit="400")
    quote = make_quote(customer)
    assert (quote.due_now, quote.due_later) == (0, PRICE)
    assert accept(quote).state == Lease.State.SCHEDULED
    with pytest.raises(checkout.InsufficientFunds):
        accept(make_quote(customer))


def test_credit_counts_for_postpaid_customers_only():
    customer = make_customer(mode="prepaid", credit="400")
    with pytest.raises(checkout.InsufficientFunds):
        accept(make_quote(customer))


def test_tax_is_reserved_too():
    from billing.sellers import default_seller

    seller = default_seller()
    seller.tax_code, seller.tax_rate = "VAT", Decimal("0.23")
    seller.save()
    customer = make_customer(funds="400")
    quote = make_quote(customer)
    assert quote.total == PRICE and quote.arithmetic["tax"]["amount"] == "88.32"
    with pytest.raises(checkout.InsufficientFunds):
        accept(quote)
    accounts.top_up(organization=customer, amount=Decimal("72.32"), reference="more", actor=None, now=NOW)
    accept(quote)
    assert account_of(customer).spendable == 0


@pytest.mark.parametrize("swept", [True, False])
def test_a_lapsed_quote_is_refused(swept):
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    later = quote.expires_at
    if swept:
        assert lifecycle.lapse_holds(now=later) == 1
        assert checkout.lapse_quotes(now=later) == 1
    before = money_snapshot()
    with pytest.raises(checkout.QuoteExpired) as refused:
        accept(quote, now=later)
    assert (refused.value.status, refused.value.code) == (409, "quote-expired")
    assert money_snapshot() == before


def test_accepting_again_answers_with_the_same_lease():
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    assert accept(quote) == accept(quote, now=NOW + timedelta(hours=1))
    assert account_of(customer).reserved == PRICE


def test_another_tenants_quote_does_not_exist():
    quote = make_quote(make_customer(funds="1000"))
    before = money_snapshot()
    with pytest.raises(NotFound):
        checkout.accept(quote_uid=quote.uid, organization=make_organization(), actor=None, now=NOW)
    assert money_snapshot()["leases"] == before["leases"]


def test_only_approved_organizations_quote_and_accept():
    with pytest.raises(NotApproved):
        make_quote(make_customer(state="pending"))
    assert not Allocation.objects.exists()
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    customer.state = "restricted"
    customer.save()
    before = money_snapshot()
    with pytest.raises(NotApproved):
        accept(quote)
    assert money_snapshot() == before


def test_a_request_key_answers_the_same_once():
    customer = make_customer(funds="1000")
    first = make_quote(customer, request_key="k")
    assert make_quote(customer, request_key="k") == first
    assert Quote.objects.count() == 1
    with pytest.raises(RequestKeyReused):
        make_quote(customer, request_key="k", hours=48)
    lease = accept(first, request_key="a")
    assert accept(first, request_key="a") == lease
    with pytest.raises(RequestKeyReused):
        accept(first, request_key="a", wait_for_funds=True)


def test_bad_requests_are_refused_before_anything_is_held():
    customer = make_customer()
    for wanted, field in [
        ({"nodes": 0}, "nodes"),
        ({"start": NOW - timedelta(days=1)}, "start"),
        ({"hours": -1}, "end"),
        ({"gpu_model": "abacus"}, "gpu_model"),
        ({"region": "aws/moon"}, "region"),
    ]:
        with pytest.raises(InvalidInput) as refused:
            make_quote(customer, **wanted)
        assert refused.value.field == field
    with pytest.raises(NotEnoughCapacity):
        make_quote(customer, nodes=3)
    assert not Lease.objects.exists()


# --- staff prepare --------------------------------------------------------------------------------


def test_staff_prepare_a_quote_with_its_own_price_and_validity():
    customer = make_customer(funds="1000")
    staff = make_user(is_staff=True)
    quote = make_quote(
        customer,
        prepared_by=staff,
        rate_override=Decimal("1.5"),
        override_reason="Launch partner",
        purchase_order="PO-77",
        terms_version="2026-11",
        valid_for=timedelta(hours=20),
    )
    assert quote.total == Decimal("1.5") * 8 * 24
    assert quote.price_rule is None and quote.arithmetic["list_rate_per_gpu_hour"] == "2"
    assert quote.arithmetic["override_reason"] == "Launch partner"
    assert quote.expires_at == NOW + timedelta(hours=20) == quote.lease.deadline
    lease = accept(quote, now=NOW + timedelta(hours=19))
    assert Term.objects.get(lease=lease).rate_per_gpu_hour == Decimal("1.5")


def test_a_long_hold_ends_with_the_start():
    quote = make_quote(make_customer(), prepared_by=make_user(is_staff=True), valid_for=timedelta(days=7))
    assert quote.expires_at == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("staff", "fields", "error"),
    [
        (False, {}, Forbidden),
        (None, {"rate_override": Decimal(1)}, Forbidden),
        (None, {"valid_for": timedelta(hours=2)}, Forbidden),
        (True, {"rate_override": Decimal(1)}, InvalidInput),  # no reason
        (True, {"rate_override": Decimal(0), "override_reason": "free"}, InvalidInput),
        (True, {"rate_override": Decimal("NaN"), "override_reason": "?"}, InvalidInput),
        (True, {"valid_for": timedelta(days=60)}, InvalidInput),
    ],
)
def test_what_only_staff_may_do_and_how(staff, fields, error):
    prepared_by = None if staff is None else make_user(is_staff=staff)
    with pytest.raises(error):
        make_quote(make_customer(), prepared_by=prepared_by, **fields)
    assert not Lease.objects.exists()


# --- waiting for funds ----------------------------------------------------------------------------


def test_a_lease_may_wait_for_funds_and_is_scheduled_when_they_arrive():
    customer = make_customer(funds="10")
    lease = accept(make_quote(customer, start=NOW + timedelta(days=3)), wait_for_funds=True)
    assert lease.state == Lease.State.AWAITING
    assert lease.deadline == NOW + timedelta(hours=24)
    assert account_of(customer).reserved == 0
    assert checkout.settle_awaiting(now=NOW) == 0
    accounts.top_up(organization=customer, amount=Decimal(374), reference="rest", actor=None, now=NOW)
    assert checkout.settle_awaiting(now=NOW + timedelta(hours=23)) == 1
    assert checkout.settle_awaiting(now=NOW + timedelta(hours=23)) == 0
    lease.refresh_from_db()
    assert lease.state == Lease.State.SCHEDULED
    assert account_of(customer).spendable == 0 and account_of(customer).reserved == PRICE


def test_waiting_ends_with_the_start_at_the_latest():
    lease = accept(make_quote(make_customer(), start=NOW + timedelta(hours=2)), wait_for_funds=True)
    assert lease.deadline == NOW + timedelta(hours=2)


def test_past_its_deadline_the_capacity_is_free_again():
    customer = make_customer()
    lease = accept(make_quote(customer), wait_for_funds=True)
    accounts.top_up(organization=customer, amount=Decimal(1000), reference="late", actor=None, now=NOW)
    assert checkout.settle_awaiting(now=lease.deadline) == 0
    lease.refresh_from_db()
    assert lease.state == Lease.State.LAPSED
    assert not Allocation.objects.exists() and not FundsHold.objects.exists()


def test_one_lease_per_organization_waits():
    customer = make_customer()
    first = accept(make_quote(customer), wait_for_funds=True)
    second = make_quote(customer)
    before = money_snapshot()
    with pytest.raises(checkout.AlreadyAwaiting) as refused:
        accept(second, wait_for_funds=True)
    assert refused.value.extra["lease"] == first.uid
    assert money_snapshot() == before


def test_a_customer_that_staff_stopped_is_not_scheduled_and_stops_nobody_else():
    stopped, other = make_customer(), make_customer()
    leases = [accept(make_quote(customer), wait_for_funds=True) for customer in (stopped, other)]
    for customer in (stopped, other):
        accounts.top_up(
            organization=customer, amount=Decimal(1000), reference=customer.uid, actor=None, now=NOW
        )
    Organization.objects.filter(pk=stopped.pk).update(state=Organization.State.RESTRICTED)
    assert checkout.settle_awaiting(now=NOW) == 1
    assert [Lease.objects.get(pk=lease.pk).state for lease in leases] == ["awaiting", "scheduled"]
    assert account_of(stopped).reserved == 0


def test_with_funds_nothing_waits():
    customer = make_customer(funds="1000")
    assert accept(make_quote(customer), wait_for_funds=True).state == Lease.State.SCHEDULED


# --- cancelling -----------------------------------------------------------------------------------


def quote_cancellation(lease, now=NOW):
    return checkout.quote_cancellation(
        lease_uid=lease.uid, organization=lease.organization, actor=None, now=now
    )


def cancel(quote, now=NOW, **more):
    return checkout.cancel(quote_uid=quote.uid, organization=quote.organization, actor=None, now=now, **more)


def test_cancelling_before_the_start_frees_nodes_and_funds():
    customer = make_customer(funds="1000")
    lease = make_booking(customer)
    quote = quote_cancellation(lease)
    assert quote.total == 0 and quote_cancellation(lease) == quote
    assert cancel(quote, request_key="c").state == Lease.State.CANCELLED
    assert cancel(quote, request_key="c") == lease == cancel(quote)
    assert account_of(customer).spendable == 1000
    assert not Allocation.objects.exists()
    assert FundsHold.objects.get().released_at == NOW


def test_a_fee_is_charged_from_the_reserved_funds(settings):
    settings.SUBLET_CANCELLATION_FEE_PERCENT = 10
    customer = make_customer(funds="384")
    quote = quote_cancellation(make_booking(customer))
    assert quote.total == quote.due_later == Decimal("38.40")
    cancel(quote)
    account = account_of(customer)
    assert (account.balance, account.reserved, account.owed) == (384, 0, Decimal("38.40"))
    assert customer.charges.get().kind == "one_off"


def test_waiting_and_held_leases_cancel_for_nothing(settings):
    settings.SUBLET_CANCELLATION_FEE_PERCENT = 10
    customer = make_customer()
    lease = accept(make_quote(customer), wait_for_funds=True)
    held = make_quote(customer).lease
    for each in (lease, held):
        quote = quote_cancellation(each)
        assert quote.total == 0
        assert cancel(quote).state == Lease.State.CANCELLED
    assert not Quote.objects.filter(state=Quote.State.OPEN).exists()


def test_after_the_start_it_is_refused_with_a_sentence():
    customer = make_customer(funds="1000")
    lease = make_booking(customer)
    quote = quote_cancellation(lease)
    start = NOW + timedelta(days=1)
    before = money_snapshot()
    with pytest.raises(checkout.TooLateToCancel, match="has started"):
        quote_cancellation(lease, now=start)
    with pytest.raises(checkout.TooLateToCancel, match="has started"):
        cancel(quote, now=start)
    assert money_snapshot() == before


def test_a_cancellation_quote_expires_too():
    customer = make_customer(funds="1000")
    lease = make_booking(customer)
    old = quote_cancellation(lease)
    later = NOW + timedelta(minutes=15)
    with pytest.raises(checkout.QuoteExpired):
        cancel(old, now=later)
    new = quote_cancellation(lease, now=later)
    assert new != old and cancel(new, now=later).state == Lease.State.CANCELLED


def test_a_cancelled_leases_booking_quote_is_used_up():
    customer = make_customer(funds="1000")
    booked = make_quote(customer)
    lease = accept(booked)
    cancel(quote_cancellation(lease))
    with pytest.raises(checkout.QuoteUsed):
        accept(booked)
