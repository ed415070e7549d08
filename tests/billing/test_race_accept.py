"""Races for capacity and money: one winner who can pay, and a wallet is never overdrawn."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from billing import accounts, checkout
from billing.models import BillingAccount, FundsHold, Payment, Quote
from leases import lifecycle
from leases.errors import NotEnoughCapacity
from leases.models import Allocation, Lease
from tests.billing.helpers import account_of, check_books, make_customer, make_quote, make_rule
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_request

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
PRICE = Decimal(384)


@pytest.fixture(autouse=True)
def _price():
    make_rule()


def test_half_of_the_clients_have_no_funds_and_one_with_funds_wins_each_round():
    """32 clients race to quote and accept the last node; those without funds must not end it for the others."""
    make_fleet(nodes=1)
    rich = [make_customer(funds="100000") for _ in range(16)]
    poor = [make_customer() for _ in range(16)]
    for round_ in range(20):
        start = NOW + DAY * (2 * round_ + 1)

        def client(organization, start=start):
            for _attempt in range(200):
                try:
                    quote = checkout.quote(
                        organization=organization, request=make_request(start=start), actor=None, now=NOW
                    )
                except NotEnoughCapacity:
                    if Lease.objects.filter(state="scheduled", terms__period__contains=start).exists():
                        return None
                    continue  # someone holds it and may fail to pay
                try:
                    return checkout.accept(
                        quote_uid=quote.uid, organization=organization, actor=None, now=NOW
                    )
                except checkout.InsufficientFunds as refused:
                    with transaction.atomic():
                        lifecycle.lapse([lifecycle.lock_lease(quote.lease_id)], now=NOW)
                    return refused
            return None

        clients = [each for pair in zip(rich, poor, strict=True) for each in pair]
        results = race([lambda each=each: client(each) for each in clients], timeout=120)
        winners = [
            organization
            for organization, result in zip(clients, results, strict=True)
            if isinstance(result, Lease)
        ]
        errors = [
            result
            for result in results
            if isinstance(result, Exception) and not isinstance(result, checkout.InsufficientFunds)
        ]
        assert not errors, errors
        assert len(winners) == 1 and winners[0] in rich
        allocated = Allocation.objects.filter(period__contains=start)
        assert [each.lease.organization for each in allocated] == winners
    assert Lease.objects.filter(state="scheduled").count() == 20 == FundsHold.objects.count()
    check_books()


def test_two_accepts_of_one_quote_make_one_promise():
    make_fleet(nodes=1)
    customer = make_customer(funds="1000")
    quote = make_quote(customer)
    results = race(
        [
            lambda: checkout.accept(quote_uid=quote.uid, organization=customer, actor=None, now=NOW)
            for _ in range(8)
        ]
    )
    assert {result.pk for result in results} == {quote.lease_id}
    assert FundsHold.objects.count() == 1 and account_of(customer).reserved == PRICE


def test_the_same_request_key_at_once_makes_one_quote():
    make_fleet(nodes=4)
    customer = make_customer(funds="1000")
    results = race([lambda: make_quote(customer, request_key="k") for _ in range(8)])
    assert len({result.uid for result in results}) == 1 == Quote.objects.count()
    assert Allocation.objects.count() == 1


def test_the_same_reference_tops_up_once():
    customer, other = make_customer(), make_customer()

    def top_up(organization):
        return accounts.top_up(
            organization=organization, amount=Decimal(50), reference="wire 7", actor=None, now=NOW
        )

    results = race([lambda: top_up(customer) for _ in range(8)])
    assert not [result for result in results if isinstance(result, Exception)], results
    assert account_of(customer).balance == 50 and Payment.objects.count() == 1
    refused = race([lambda: top_up(other) for _ in range(2)])
    assert all(isinstance(result, accounts.ReferenceUsed) for result in refused)
    check_books()


def test_one_reference_for_two_customers_at_once_goes_to_one():
    customers = [make_customer() for _ in range(8)]
    results = race(
        [
            lambda each=each: accounts.top_up(
                organization=each, amount=Decimal(50), reference="wire 8", actor=None, now=NOW
            )
            for each in customers
        ]
    )
    assert sum(isinstance(result, BillingAccount) for result in results) == 1
    assert sum(isinstance(result, accounts.ReferenceUsed) for result in results) == 7, results
    assert sum(account.balance for account in BillingAccount.objects.all()) == 50
    check_books()


def test_parallel_accepts_never_overdraw_a_wallet():
    make_fleet(nodes=8)
    customer = make_customer(funds="1200")  # enough for three
    quotes = [make_quote(customer) for _ in range(8)]
    results = race(
        [
            lambda each=each: checkout.accept(quote_uid=each.uid, organization=customer, actor=None, now=NOW)
            for each in quotes
        ]
    )
    assert sum(isinstance(result, Lease) for result in results) == 3
    assert sum(isinstance(result, checkout.InsufficientFunds) for result in results) == 5
    account = account_of(customer)
    assert (account.reserved, account.spendable) == (3 * PRICE, 48)
    check_books()


def test_without_the_wallets_lock_they_do(monkeypatch):
    """The race exists: with the lock off, both read the same funds and both spend them."""
    import threading

    make_fleet(nodes=2)
    customer = make_customer(funds="400")
    quotes = [make_quote(customer) for _ in range(2)]
    both_read = threading.Barrier(2)

    def unlocked(organization):
        account = BillingAccount.objects.select_related("organization").get(organization=organization)
        both_read.wait(10)
        return account

    monkeypatch.setattr(accounts, "lock_account", unlocked)
    results = race(
        [
            lambda each=each: checkout.accept(quote_uid=each.uid, organization=customer, actor=None, now=NOW)
            for each in quotes
        ]
    )
    assert all(isinstance(result, Lease) for result in results)
    assert account_of(customer).spendable < 0


def test_accept_against_the_lapse_of_its_hold_never_leaves_a_lease_without_nodes():
    make_fleet(nodes=1)
    customer = make_customer(funds="100000")
    for round_ in range(10):
        start = NOW + DAY * (2 * round_ + 1)
        quote = make_quote(customer, start=start)
        almost = quote.expires_at - timedelta(microseconds=1)
        accepted, _lapsed = race(
            [
                lambda quote=quote, almost=almost: checkout.accept(
                    quote_uid=quote.uid, organization=customer, actor=None, now=almost
                ),
                lambda quote=quote: lifecycle.lapse_holds(now=quote.expires_at),
            ]
        )
        lease = Lease.objects.get(pk=quote.lease_id)
        if isinstance(accepted, Lease):
            assert lease.state == Lease.State.SCHEDULED and lease.allocations.count() == 1
        else:
            assert isinstance(accepted, checkout.QuoteExpired)
            assert lease.state == Lease.State.LAPSED and not lease.allocations.exists()
            assert not FundsHold.objects.filter(lease=lease).exists()
    check_books()


def test_funds_that_arrive_are_given_once():
    make_fleet(nodes=1)
    customer = make_customer()
    quote = make_quote(customer)
    checkout.accept(quote_uid=quote.uid, organization=customer, actor=None, now=NOW, wait_for_funds=True)
    accounts.top_up(organization=customer, amount=PRICE, reference="r", actor=None, now=NOW)
    results = race([lambda: checkout.settle_awaiting(now=NOW) for _ in range(4)])
    assert sorted(results) == [0, 0, 0, 1]
    assert account_of(customer).reserved == PRICE
