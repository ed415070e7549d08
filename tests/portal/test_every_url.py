"""Every address with every role, and with another tenant's ids: one table says what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.cache import cache
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from billing import accounts, checkout, drafting, invoicing
from billing.charges import add_charge
from billing.models import Invoice
from leases.models import Lease
from portal.accounts import invitations, tokens
from portal.accounts.access import PERMISSIONS
from portal.accounts.models import Event, Organization, User
from portal.common.periods import period
from portal.common.transactions import durable
from tests.billing.helpers import make_rule
from tests.factories import (
    make_fleet,
    make_membership,
    make_organization,
    make_project,
    make_request,
    make_ssh_key,
    make_user,
)

pytestmark = pytest.mark.django_db(transaction=True)

# URL name → permission it takes. What is not here is for everybody who is signed in, or public.
NEEDS: dict[str, str] = {
    "dashboard:home": "view",
    "dashboard:availability": "view",
    "dashboard:quote-create": "lease",
    "dashboard:quote": "view",
    "dashboard:quote-drop": "lease",
    "dashboard:leases": "view",
    "dashboard:lease": "view",
    "dashboard:lease-cancel-quote": "lease",
    "dashboard:lease-cancel": "lease",
    "dashboard:usage": "billing",
    "dashboard:usage-csv": "billing",
    "dashboard:invoices": "billing",
    "dashboard:invoice": "billing",
    "dashboard:invoice-pdf": "billing",
    "dashboard:organization": "view",
    "dashboard:team": "view",
    "dashboard:member-role": "manage",
    "dashboard:member-remove": "manage",
    "dashboard:invitation-revoke": "manage",
    "dashboard:projects": "view",
    "dashboard:project-rename": "manage",
    "dashboard:project-archive": "manage",
    "dashboard:project-restore": "manage",
    "dashboard:ssh-keys": "view",
    "dashboard:ssh-key-remove": "lease",
    "dashboard:api-tokens": "view",
    "dashboard:api-token-revoke": "manage",
    "api:offers": "view",
    "api:gpu-models": "view",
    "api:availability": "view",
    "api:quotes": "lease",
    "api:quote": "view",
    "api:accept-quote": "lease",
    "api:leases": "view",
    "api:lease": "view",
    "api:cancel-lease": "lease",
    "api:invoices": "billing",
    "api:invoice-pdf": "billing",
    "api:usage": "billing",
}
# Addresses without a tenant's object: public, or about the person alone.
TENANTLESS = {
    "api:reference",
    "api:schema",
    "dashboard:organization-create",
    "dashboard:security",
    "dashboard:theme",
    "dashboard:styleguide",
    "dashboard:clock",
    "accounts:join",
    "accounts:invitation",
    "accounts:choose-organization",
    "accounts:totp-qr",
}


@dataclass
class Tenant:
    """An organization with one object of each kind, and somebody in every role."""

    organization: Organization
    people: dict[str, User]
    ids: dict[str, str]


def make_tenant() -> Tenant:
    """Build a tenant by the product's own functions."""
    now = timezone.now()
    organization = make_organization()
    people = {role: make_user() for role in PERMISSIONS}
    for role, user in people.items():
        make_membership(organization=organization, user=user, role=role)
    owner = people["owner"]
    accounts.top_up(
        organization=organization, amount=Decimal(100000), reference=organization.uid, actor=None, now=now
    )
    start = now + timedelta(days=2)

    def quoted() -> Any:
        return checkout.quote(
            organization=organization,
            request=make_request(start=start, end=start + timedelta(days=1)),
            actor=owner,
            now=now,
        )

    accepted = quoted()
    lease = checkout.accept(quote_uid=accepted.uid, organization=organization, actor=owner, now=now)
    cancellation = checkout.quote_cancellation(
        lease_uid=lease.uid, organization=organization, actor=owner, now=now
    )
    invitation, _secret = invitations.invite(
        actor=owner,
        organization=organization,
        email=f"new{organization.pk}@example.com",
        role="viewer",
        now=now,
    )
    token, _secret = tokens.create_token(
        actor=owner,
        organization=organization,
        name="ci",
        scopes=["read"],
        expires_at=now + timedelta(days=1),
        now=now,
    )
    return Tenant(
        organization,
        people,
        {
            "quote": quoted().uid,
            "lease": lease.uid,
            "cancellation": cancellation.uid,
            "invoice": make_invoice(organization, lease).uid,
            "member": organization.memberships.get(user=people["viewer"]).uid,
            "invitation": invitation.uid,
            "project": make_project(organization=organization).uid,
            "ssh_key": make_ssh_key(organization=organization).uid,
            "token": token.uid,
        },
    )


def make_invoice(organization: Organization, lease: Lease) -> Invoice:
    """Return a finalized invoice with one line."""
    now = timezone.now()
    month = (now.replace(day=1) - timedelta(days=1)).replace(day=1)
    with durable():
        account = accounts.lock_account(organization)
        add_charge(
            account,
            kind="one_off",
            source=f"test:{lease.uid}",
            description="Set-up",
            lease=lease,
            period=period(month, month + timedelta(hours=1)),
            quantity=Decimal(1),
            unit="each",
            unit_price=Decimal(10),
            amount=Decimal(10),
            effective_at=month,
            now=now,
        )
    drafting.draft_month(month=month.date(), now=now)
    draft = Invoice.objects.get(organization=organization)
    return invoicing.finalize(invoice_uid=draft.uid, actor=None, now=now)


def patterns(resolver: URLResolver | None = None, namespace: str = "") -> list[tuple[str, URLPattern, str]]:
    """Return (name, pattern, route) of every address of ours."""
    found = []
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            found += [
                (name, pattern, f"{entry.pattern}{route}")
                for name, pattern, route in patterns(entry, entry.namespace or namespace)
            ]
        elif entry.name:
            found.append((f"{namespace}:{entry.name}", entry, str(entry.pattern)))
    return found


def ours() -> list[tuple[str, str]]:
    """Return (name, route) of the customer's pages, the API and the accounts pages."""
    return [
        (name, route)
        for name, _pattern, route in patterns()
        if name.split(":")[0] in ("dashboard", "api", "accounts")
    ]


KINDS = {
    "dashboard:quote": "quote",
    "dashboard:quote-drop": "quote",
    "api:quote": "quote",
    "api:accept-quote": "quote",
    "dashboard:lease": "lease",
    "dashboard:lease-cancel-quote": "lease",
    "dashboard:lease-cancel": "lease",
    "api:lease": "lease",
    "api:cancel-lease": "lease",
    "dashboard:invoice": "invoice",
    "dashboard:invoice-pdf": "invoice",
    "api:invoice-pdf": "invoice",
    "dashboard:member-role": "member",
    "dashboard:member-remove": "member",
    "dashboard:invitation-revoke": "invitation",
    "dashboard:project-rename": "project",
    "dashboard:project-archive": "project",
    "dashboard:project-restore": "project",
    "dashboard:ssh-key-remove": "ssh_key",
    "dashboard:api-token-revoke": "token",
}


def address(name: str, route: str, ids: dict[str, str]) -> str:
    """Return the address with the tenant's ids in it."""
    filled = route.replace("<str:uid>", ids[KINDS[name]]) if "<str:uid>" in route else route
    return "/" + filled.replace("<str:quote>", ids["cancellation"])


def test_the_table_knows_every_address() -> None:
    names = {name for name, _route in ours()}
    assert names - TENANTLESS == set(NEEDS)
    assert {name for name, route in ours() if "<str:uid>" in route} == set(KINDS)


@pytest.fixture
def world() -> tuple[Tenant, Tenant]:
    now = timezone.now()
    cache.clear()
    make_fleet(nodes=8, available=period(now - timedelta(days=90), now + timedelta(days=365)))
    make_rule(since=now - timedelta(days=90))
    return make_tenant(), make_tenant()


def signed_in(user: User | AnonymousUser) -> Client:
    client = Client()
    client.force_login(user)
    return client


def post(client: Client, name: str, path: str) -> Any:
    """Send an empty form to a page, an empty object to the API."""
    if name.startswith("api:"):
        return client.post(path, {}, content_type="application/json")
    return client.post(path)


def changed_since(marker: int) -> list[str]:
    return list(Event.objects.filter(pk__gt=marker).values_list("kind", flat=True))


def newest() -> int:
    return Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def test_another_tenants_ids_do_not_exist_for_any_role(world: tuple[Tenant, Tenant]) -> None:
    mine, theirs = world
    for role, user in mine.people.items():
        client = signed_in(user)
        for name, route in ours():
            if "<str:uid>" not in route:
                continue
            path = address(name, route, theirs.ids)
            cache.clear()
            marker = newest()
            for response in (client.get(path), post(client, name, path)):
                # 302: a refused POST of a page goes back with a message; 405: it is not for this method.
                assert response.status_code in (404, 403, 405, 302), (role, name, response.status_code)
                if response.status_code in (403, 302):
                    assert NEEDS[name] not in PERMISSIONS[role], (role, name, response.status_code)
            assert changed_since(marker) == [], (role, name)


def test_roles_get_what_the_table_says(world: tuple[Tenant, Tenant]) -> None:
    mine, _theirs = world
    for role, user in mine.people.items():
        client = signed_in(user)
        for name, route in ours():
            if name in TENANTLESS:
                continue
            cache.clear()
            response = client.get(address(name, route, mine.ids))
            if response.status_code == 405:  # for POST only
                continue
            allowed = NEEDS[name] in PERMISSIONS[role]
            if name == "api:availability":  # lacks its query
                assert response.status_code == 400
            elif allowed:
                assert response.status_code == 200, (role, name, response.status_code)
            else:
                assert response.status_code == 403, (role, name, response.status_code)


def test_writes_without_the_permission_change_nothing(world: tuple[Tenant, Tenant]) -> None:
    mine, _theirs = world
    for role, user in mine.people.items():
        client = signed_in(user)
        for name, route in ours():
            if name in TENANTLESS or NEEDS[name] in PERMISSIONS[role] or NEEDS[name] == "view":
                continue
            cache.clear()
            marker = newest()
            response = post(client, name, address(name, route, mine.ids))
            assert response.status_code in (302, 403, 405), (role, name, response.status_code)
            assert changed_since(marker) == [], (role, name)


def test_nobody_gets_in_without_signing_in(world: tuple[Tenant, Tenant]) -> None:
    mine, _theirs = world
    client = Client()
    for name, route in ours():
        if name in TENANTLESS:
            continue
        cache.clear()
        for method in (client.get, client.post):
            response = method(address(name, route, mine.ids))
            if name.startswith("api:"):
                assert response.status_code in (401, 405), (name, response.status_code)
            elif response.status_code != 405:
                assert response.status_code == 302, (name, response.status_code)
                assert "/accounts/login/" in response["Location"], name


def test_staff_pages_are_not_for_customers(world: tuple[Tenant, Tenant]) -> None:
    mine, _theirs = world
    client = signed_in(mine.people["owner"])
    for name, _pattern, route in patterns():
        if (
            not name.startswith("admin:")
            or "<" in route
            or "(" in route
            or name.endswith(("login", "logout", "jsi18n"))
        ):
            continue
        response = client.get(f"/{route}")
        assert response.status_code in (302, 403, 404), (name, response.status_code)
