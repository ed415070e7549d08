"""A customer with funds, a fleet, a price, and tokens to ask with. Time is the real one here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from billing import accounts
from portal.accounts import tokens
from portal.accounts.models import Organization, User
from portal.common.periods import period
from tests.billing.helpers import make_rule
from tests.factories import H100, make_fleet, make_organization, make_user


@pytest.fixture(autouse=True)
def _no_limits_left_over() -> None:
    cache.clear()


def at(days: float) -> str:
    """Return a full hour so many days from now, as the API writes times."""
    moment = (datetime.now(UTC) + timedelta(days=days)).replace(minute=0, second=0, microsecond=0)
    return moment.isoformat().replace("+00:00", "Z")


@dataclass
class Customer:
    """Somebody who calls the API."""

    user: User
    organization: Organization

    def token(self, *scopes: str) -> str:
        """Return a new token's secret."""
        _row, secret = tokens.create_token(
            actor=self.user,
            organization=self.organization,
            name="test",
            scopes=list(scopes) or ["read", "lease", "billing"],
            expires_at=timezone.now() + timedelta(days=1),
            now=timezone.now(),
        )
        return secret

    def call(self, *scopes: str) -> Call:
        """Return a client that sends a new token with every request."""
        return Call(self.token(*scopes))


class Call:
    """A small JSON client."""

    def __init__(self, secret: str) -> None:
        self.client = Client(headers={"authorization": f"Bearer {secret}"})

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/v1/{path}", query)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.client.post(
            f"/api/v1/{path}", body or {}, content_type="application/json", headers=headers
        )


MakeCustomer = Callable[..., Customer]


@pytest.fixture
def make_customer(db: None) -> MakeCustomer:
    """A factory of customers with funds."""

    def make(funds: str = "100000") -> Customer:
        user = make_user()
        organization = make_organization(owner=user)
        if Decimal(funds):
            accounts.top_up(
                organization=organization,
                amount=Decimal(funds),
                reference=f"bank {organization.uid}",
                actor=None,
                now=timezone.now(),
            )
        return Customer(user, organization)

    return make


@pytest.fixture
def customer(make_customer: MakeCustomer) -> Customer:
    return make_customer()


@pytest.fixture
def fleet(db: None) -> None:
    """Four H100 nodes for a year, sold at $2.00 per GPU-hour."""
    now = timezone.now()
    make_fleet(nodes=4, available=period(now - timedelta(days=30), now + timedelta(days=365)))
    make_rule(since=now - timedelta(days=30))


@pytest.fixture
def wanted() -> dict[str, Any]:
    """A quote request for two nodes and one day."""
    return {"gpu_model": H100, "gpus_per_node": 8, "nodes": 2, "start": at(2), "end": at(3)}
