"""Every address of the site, with every role and with another tenant's ids.

Addresses are read from the URL configuration, so a new page is walked without being
named here. One that takes an id must say of which kind, or the first test fails.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db.models import Model
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse

from billing import checkout, invoicing, metering
from billing.models import Invoice, Quote
from leases.models import Lease
from portal.accounts import invitations, tokens
from portal.accounts.access import permissions
from portal.accounts.models import (
    ApiToken,
    Invitation,
    Membership,
    Organization,
    Project,
    SSHKey,
    User,
)
from tests.billing.helpers import deliver, make_booking, make_customer, make_quote, make_rule
from tests.factories import H100, NOW, make_fleet, make_membership, make_project, make_ssh_key, make_user

pytestmark = pytest.mark.django_db
JANUARY = datetime(2027, 1, 2, 9, tzinfo=UTC)
ROLES = Membership.Role.values

# The kind of thing that each parameter names; ids of a kind begin alike (lse_, quo_, …).
TAKES: dict[str, dict[str, str]] = {
    "accounts:invitation": {"token": "link"},
    "dashboard:catalog-model": {"slug": "gpu"},
    "dashboard:quote": {"uid": "quote"},
    "dashboard:quote-drop": {"uid": "quote"},
    "dashboard:lease": {"uid": "lease"},
    "dashboard:lease-cancel-quote": {"uid": "lease"},
    "dashboard:lease-cancel": {"uid": "lease", "quote": "cancellation"},
    "dashboard:invoice": {"uid": "invoice"},
    "dashboard:invoice-pdf": {"uid": "invoice"},
    "dashboard:member-role": {"uid": "member"},
    "dashboard:member-remove": {"uid": "member"},
    "dashboard:invitation-revoke": {"uid": "invitation"},
    "dashboard:project-rename": {"uid": "project"},
    "dashboard:project-archive": {"uid": "project"},
    "dashboard:project-restore": {"uid": "project"},
    "dashboard:ssh-key-remove": {"uid": "ssh_key"},
    "dashboard:api-token-revoke": {"uid": "token"},
    "api:gpu-model": {"slug": "gpu"},
    "api:gpu-model-prices": {"slug": "gpu"},
    "api:quote": {"uid": "quote"},
    "api:accept-quote": {"uid": "quote"},
    "api:lease": {"uid": "lease"},
    "api:cancel-lease": {"uid": "lease"},
    "api:invoice-pdf": {"uid": "invoice"},
}
# Kinds that belong to no tenant: everybody who is signed in sees the same.
SHARED = {"gpu"}
# What looking at a page needs beyond belonging to the organization.
NEEDS_BILLING = {
    "dashboard:usage",
    "dashboard:usage-csv",
    "dashboard:invoices",
    "dashboard:invoice",
    "dashboard:invoice-pdf",
    "api:invoices",
    "api:invoice-pdf",
    "api:usage",
}
NEEDS_LEASE = {"dashboard:lease-cancel"}
# There only while an authenticator is being set up.
HIDDEN = {"accounts:totp-qr"}
# For everybody, signed in or not.
OPEN = {
    "accounts:join",
    "accounts:invitation",
    "dashboard:theme",
    "dashboard:styleguide",
    "api:reference",
    "api:schema",
}
# Everything a form or a request of ours could ask for, so that what is refused is refused for the role.
BODY: dict[str, Any] = {
    "name": "Taken over",
    "email": "intruder@example.com",
    "role": "owner",
    "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBWDyBjyyiTH8QbGTLFV9OzSiS7PWHY33Lq7mu5mKy8G",
    "scopes": ["read", "lease", "billing"],
    "days": "30",
    "gpu_model": "h100-sxm5-80gb",
    "gpus_per_node": 8,
    "nodes": 1,
    "start": "2027-01-20T09:00:00Z",
    "end": "2027-01-21T09:00:00Z",
    "billing_email": "intruder@example.com",
    "billing_address": "Nowhere",
    "tax_id": "X",
    "form": "details",
}


def addresses() -> dict[str, list[str]]:
    """Return the name of each address of ours with the names of its parameters."""
    found: dict[str, list[str]] = {}

    def walk(patterns: Any, namespace: str) -> None:
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                if pattern.name and namespace:
                    found[f"{namespace}:{pattern.name}"] = list(pattern.pattern.converters)
            elif pattern.namespace != "admin":  # staff only, and allauth's own have no namespace
                walk(pattern.url_patterns, pattern.namespace or namespace)

    walk(get_resolver().url_patterns, "")
    return found


NAMES = sorted(addresses())


@dataclass
class Tenant:
    """An organization with one of everything."""

    organization: Organization
    ids: dict[str, str]
    people: dict[str, User]

    def address(self, name: str, **replaced: str) -> str:
        kinds = TAKES.get(name, {})
        return reverse(
            name, kwargs={param: replaced.get(kind, self.ids[kind]) for param, kind in kinds.items()}
        )

    def rows(self, *left_out: type[Model]) -> dict[str, Any]:
        """Everything the organization owns, as it is stored now."""
        models = (Membership, Invitation, Project, SSHKey, ApiToken, Lease, Quote, Invoice)
        mine = {
            model.__name__: list(model._default_manager.filter(organization=self.organization).values())
            for model in models
            if model not in left_out
        }
        if Organization not in left_out:
            mine["Organization"] = list(Organization.objects.filter(pk=self.organization.pk).values())
        return mine


def make_tenant() -> Tenant:
    customer = make_customer(funds="50000")
    people = {role: make_membership(organization=customer, role=role).user for role in ROLES}
    owner = people["owner"]
    ended = make_booking(customer, start=NOW + timedelta(days=1), hours=24)
    deliver(ended, NOW + timedelta(days=1), NOW + timedelta(days=2))
    Lease.objects.filter(pk=ended.pk).update(state=Lease.State.ENDED)
    metering.meter_due(now=NOW + timedelta(days=3))
    draft = invoicing.draft_month(month=date(2026, 12, 1), now=JANUARY, organization=customer)[0]
    invoice = invoicing.finalize(invoice_uid=draft.uid, actor=None, now=JANUARY)
    lease = make_booking(customer, now=JANUARY, start=JANUARY + timedelta(days=5))
    cancellation = checkout.quote_cancellation(
        lease_uid=lease.uid, organization=customer, actor=owner, now=JANUARY
    )
    quote = make_quote(customer, now=JANUARY, start=JANUARY + timedelta(days=9))
    invitation, link = invitations.invite(
        actor=owner,
        organization=customer,
        email=f"new-{customer.uid}@example.com",
        role="viewer",
        now=JANUARY,
    )
    token, _ = tokens.create_token(
        actor=owner,
        organization=customer,
        name="ci",
        scopes=["read"],
        expires_at=JANUARY + timedelta(days=30),
        now=JANUARY,
    )
    ids = {
        "lease": lease.uid,
        "quote": quote.uid,
        "cancellation": cancellation.uid,
        "invoice": invoice.uid,
        "member": Membership.objects.get(user=people["member"]).uid,
        "invitation": invitation.uid,
        "project": make_project(organization=customer).uid,
        "ssh_key": make_ssh_key(organization=customer, added_by=owner).uid,
        "token": token.uid,
        "link": link,
        "gpu": H100,
    }
    return Tenant(organization=customer, ids=ids, people=people)


@pytest.fixture(autouse=True)
def _world(time_machine, settings):
    time_machine.move_to(JANUARY, tick=False)
    # This asks more often in a second than a person in an hour.
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    make_fleet(nodes=8)
    make_rule()


@pytest.fixture
def mine() -> Tenant:
    return make_tenant()


def as_(person: User) -> Client:
    client = Client(raise_request_exception=True)
    client.force_login(person)
    return client


def ask(client: Client, method: str, name: str, address: str) -> Any:
    if method == "get":
        return client.get(address)
    if name.startswith("api:"):
        return client.post(
            address,
            json.dumps(BODY),
            content_type="application/json",
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )
    return client.post(address, BODY)


def test_every_address_that_takes_an_id_says_of_what():
    taking = {name: params for name, params in addresses().items() if params}
    assert {name: sorted(TAKES.get(name, {})) for name in taking} == {
        name: sorted(params) for name, params in taking.items()
    }
    assert set(TAKES) == set(taking)


@pytest.mark.parametrize("role", ROLES)
def test_another_tenants_things_are_as_if_they_did_not_exist(role, mine):
    theirs = make_tenant()
    before = theirs.rows()
    client = as_(mine.people[role])
    for name in sorted(set(TAKES) - OPEN):
        for method in ("get", "post"):
            for kind in set(TAKES[name].values()) - SHARED:  # one of their ids among mine, and each alone
                foreign = mine.address(name, **{kind: theirs.ids[kind]})
                prefix, _, rest = theirs.ids[kind].partition("_")
                ghost = mine.address(name, **{kind: f"{prefix}_{'0' * len(rest)}"})
                answer, nothing = ask(client, method, name, foreign), ask(client, method, name, ghost)
                seen = f"{method} {name} as {role}: {answer.status_code}"
                assert answer.status_code == nothing.status_code, seen
                assert answer.status_code in (404, 405, 403, 302), seen
                if role == "owner":
                    assert answer.status_code in (404, 405), seen
                assert theirs.organization.name not in answer.content.decode(errors="replace"), seen
    assert theirs.rows() == before


def test_strangers_sign_in_first(mine):
    before = mine.rows()
    for name in sorted(set(NAMES) - OPEN):
        for method in ("get", "post"):
            answer = ask(Client(), method, name, mine.address(name))
            seen = f"{method} {name}: {answer.status_code}"
            if name.startswith("api:"):
                assert answer.status_code == 401, seen
            elif answer.status_code == 302:
                assert answer.url.startswith(reverse("account_login")), seen
            else:
                assert answer.status_code == 405, seen
    assert mine.rows() == before


@pytest.mark.parametrize("role", ROLES)
def test_every_page_opens_for_the_roles_that_may_see_it(role, mine):
    held = permissions(role)
    client = as_(mine.people[role])
    for name in sorted(set(NAMES) - HIDDEN):
        answer = ask(client, "get", name, mine.address(name))
        seen = f"{name} as {role}: {answer.status_code}"
        if answer.status_code == 405:
            continue
        needed = "billing" if name in NEEDS_BILLING else "lease" if name in NEEDS_LEASE else "view"
        if needed in held:
            assert answer.status_code in (200, 302, 400), seen
        else:
            assert answer.status_code == 403, seen


# What a role leaves as it is, whatever it sends to whichever address.
MAY_CHANGE: dict[str, tuple[type[Model], ...]] = {
    "viewer": (),
    "billing": (Organization,),
    "member": (Lease, Quote, SSHKey),
}


@pytest.mark.parametrize("role", MAY_CHANGE)
def test_a_role_changes_only_what_it_may(role, mine):
    client = as_(mine.people[role])
    left_out = MAY_CHANGE[role]
    for name in NAMES:
        before = mine.rows(*left_out)
        answer = ask(client, "post", name, mine.address(name))
        assert answer.status_code < 500, name
        assert mine.rows(*left_out) == before, f"{name} as {role}"


def test_a_person_without_an_organization_is_led_to_create_one(mine):
    client = as_(make_user())
    for name in sorted(set(NAMES) - OPEN):
        for method in ("get", "post"):
            answer = ask(client, method, name, mine.address(name))
            assert answer.status_code in (200, 302, 400, 403, 404, 405), f"{method} {name}"
            assert mine.organization.name not in answer.content.decode(errors="replace"), f"{method} {name}"
    assert not Membership.objects.filter(user__memberships__organization=mine.organization).exclude(
        organization=mine.organization
    )
