"""A customer with funds who is signed in, a fleet and a price. Time is the real one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import timezone

from billing import accounts
from portal.accounts.models import Organization, User
from portal.common.periods import period
from tests.billing.helpers import make_rule
from tests.factories import make_fleet, make_organization, make_user


@dataclass
class Customer:
    """Somebody at the customer's pages."""

    user: User
    organization: Organization
    client: Client
    now: datetime


@pytest.fixture
def customer(db: None) -> Customer:
    now = timezone.now()
    user = make_user()
    organization = make_organization(owner=user)
    accounts.top_up(
        organization=organization, amount=Decimal(100_000), reference="bank 1", actor=None, now=now
    )
    make_fleet(nodes=6, available=period(now - timedelta(days=60), now + timedelta(days=365)))
    make_rule(since=now - timedelta(days=400))
    client = Client()
    client.force_login(user)
    return Customer(user, organization, client, now)
