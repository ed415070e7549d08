"""A reseller with four H100 nodes, and a customer whose owner signs in: what the pages are driven on.

Time is the real one where the browser looks; what comes later is played with the
product's own sweeps and a clock of the test's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from allauth.account.models import EmailAddress
from django.utils import timezone
from playwright.sync_api import Page

from billing import accounts
from billing.sellers import default_seller
from inventory.models import ProviderAccount
from portal.accounts.models import Membership, Organization, User
from portal.common.crypto import encrypt
from portal.common.periods import period
from tests.billing.helpers import make_rule
from tests.factories import (
    Fleet,
    make_account,
    make_fleet,
    make_membership,
    make_organization,
    make_provider,
)

PASSWORD = "correct-horse-battery"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v ada@laptop"
REGION = "us-east-1"


@dataclass(frozen=True)
class World:
    """Who buys, and what there is to buy."""

    owner: User
    organization: Organization
    fleet: Fleet
    now: datetime

    def top_up(self, amount: str, reference: str = "transfer") -> None:
        """Put money into the wallet."""
        accounts.top_up(
            organization=self.organization,
            amount=Decimal(amount),
            reference=f"{reference} {self.organization.uid}",
            actor=None,
            now=timezone.now(),
        )


def make_person(email: str, name: str, *, organization: Organization | None = None, role: str = "") -> User:
    """Return a person who can sign in with :data:`PASSWORD`."""
    user = User.objects.create_user(email, PASSWORD, full_name=name)
    EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    if organization is not None:
        make_membership(organization=organization, user=user, role=role or Membership.Role.MEMBER)
    return user


def make_world(*, funds: str = "20000", endpoint: str = "", nodes: int = 4) -> World:
    """Return the world; ``endpoint`` is the EC2 server that its machines come from."""
    now = timezone.now()
    owner = make_person("ada@example.com", "Ada Osei")
    organization = make_organization(name="Northwind AI", owner=owner)
    seller = default_seller()
    seller.name, seller.address, seller.country = "Sublet Test Ltd", "1 Quay\nDublin", "IE"
    seller.save()
    make_provider(slug="aws", kind="aws")
    account = make_account(
        name="cloud",
        credentials=encrypt({"access_key_id": "test", "secret_access_key": "test"}),
        options={"endpoint_url": endpoint, "regions": [REGION], "image": "ami-12c6146b"},
        delivery_probe=ProviderAccount.Probe.PROVIDER_STATUS,
    )
    fleet = make_fleet(
        nodes=nodes,
        account=account,
        reservation_id="cr-0123456789abcdef0",
        available=period(now - timedelta(days=60), now + timedelta(days=365)),
    )
    make_rule(since=now - timedelta(days=400))
    world = World(owner, organization, fleet, now)
    if Decimal(funds):
        world.top_up(funds)
    return world


def sign_in(page: Page, url: str, email: str = "ada@example.com", path: str = "/") -> None:
    """Sign in with the form, as a person does."""
    page.goto(f"{url}/accounts/login/?next={path}")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{url}{path}")
