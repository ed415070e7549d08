"""A customer cannot keep the fleet from others by quoting without end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as site

from billing import checkout
from billing.models import Quote
from billing.quoting import TooManyQuotes
from leases.models import Allocation
from tests.billing.helpers import make_customer, make_quote, make_rule
from tests.concurrency import race
from tests.factories import NOW, make_fleet, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def test_one_quote_too_many_is_refused_and_holds_nothing(settings: Any) -> None:
    settings.SUBLET_OPEN_QUOTES = 2
    make_fleet(nodes=4)
    make_rule()
    customer = make_customer()
    first = make_quote(customer)
    make_quote(customer)
    with pytest.raises(TooManyQuotes, match="2 open quotes"):
        make_quote(customer)
    assert (Quote.objects.count(), Allocation.objects.count()) == (2, 2)

    make_quote(make_customer())  # others are not concerned
    make_quote(customer, prepared_by=make_user(is_staff=True))  # nor what staff prepare
    checkout.decline(quote_uid=first.uid, organization=customer, actor=None, now=NOW)
    make_quote(customer)


def test_lapsed_quotes_do_not_count(settings: Any) -> None:
    settings.SUBLET_OPEN_QUOTES = 1
    make_fleet(nodes=1)
    make_rule()
    customer = make_customer()
    make_quote(customer)
    later = NOW + timedelta(minutes=site.SUBLET_HOLD_MINUTES + 1)
    assert make_quote(customer, now=later).state == Quote.State.OPEN


def test_twelve_at_once_are_counted_one_after_the_other(settings: Any) -> None:
    settings.SUBLET_OPEN_QUOTES = 3
    make_fleet(nodes=12)
    make_rule()
    customer = make_customer()
    outcomes = race([lambda: make_quote(customer)] * 12)
    made = [outcome for outcome in outcomes if isinstance(outcome, Quote)]
    assert len(made) == 3
    assert Allocation.objects.count() == 3
