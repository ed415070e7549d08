"""Staff pages: decisions with their record, teams that keep an owner, a log nobody edits."""

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.admin.sites import site
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from portal.accounts import invitations, tokens
from portal.accounts.models import (
    ApiToken,
    Event,
    Invitation,
    Membership,
    Organization,
    OrganizationReview,
    Project,
    SSHKey,
    User,
)
from tests.factories import NOW, make_membership, make_organization, make_project, make_ssh_key, make_user

pytestmark = pytest.mark.django_db
RECORD = {
    "legal_name": "Aurora Labs Ltd, CRO 123456",
    "country": "IE",
    "end_use": "Protein models",
    "screening_evidence": "EU list, 2026-12-01, no match",
    "terms_version": "2026-10",
    "note": "",
}


@pytest.fixture(autouse=True)
def _today(time_machine):
    time_machine.move_to(NOW, tick=False)


@pytest.fixture
def staff():
    return make_user(email="staff@example.com", is_staff=True, is_superuser=True)


@pytest.fixture
def client(staff):
    client = Client()
    client.force_login(staff)
    return client


def page(model, name, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def said(response):
    return " ".join(str(message) for message in response.context["messages"])


def fill():
    """One row of everything."""
    owner = make_membership(organization=make_organization(), role="owner")
    make_project(organization=owner.organization)
    make_ssh_key(organization=owner.organization, added_by=owner.user)
    invitations.invite(
        actor=owner.user, organization=owner.organization, email="new@example.com", role="member", now=NOW
    )
    _, secret = tokens.create_token(
        actor=owner.user,
        organization=owner.organization,
        name="ci",
        scopes=["read"],
        expires_at=NOW + timedelta(days=9),
        now=NOW,
    )
    return owner, secret


def test_every_list_and_row_opens_and_shows_no_secret(client):
    _, secret = fill()
    token = invitations.link_token(Invitation.objects.get())
    for model in site._registry:
        if model._meta.app_label not in ("accounts", "notifications"):
            continue
        for query in ({}, {"q": "a"}):
            response = client.get(page(model, "changelist"), query)
            assert response.status_code == 200, model
            assert secret not in response.content.decode()
            assert token not in response.content.decode()
        for row in model.objects.all()[:3]:
            response = client.get(page(model, "change", row.pk))
            assert response.status_code == 200, model
            assert secret not in response.content.decode()
            assert token not in response.content.decode()


def test_staff_approve_with_the_record(client, staff):
    made = make_organization(state="pending", country="")
    address = reverse("admin:accounts_organization_decide", args=[made.pk, "approved"])
    assert address in client.get(page(Organization, "change", made.pk)).content.decode()
    assert client.get(address).status_code == 200
    response = client.post(address, RECORD, follow=True)
    assert "is approved now" in said(response)
    made.refresh_from_db()
    assert (made.state, made.country) == ("approved", "IE")
    review = made.reviews.get()
    assert (review.decided_by, review.decided_at, review.end_use) == (staff, NOW, "Protein models")
    assert "EU list" in response.content.decode()  # the inline shows the evidence


@pytest.mark.parametrize(
    "missing", ["legal_name", "country", "end_use", "screening_evidence", "terms_version"]
)
def test_an_incomplete_record_approves_nobody(client, missing):
    made = make_organization(state="pending")
    address = reverse("admin:accounts_organization_decide", args=[made.pk, "approved"])
    response = client.post(address, RECORD | {missing: "  "})
    assert response.status_code == 400
    assert missing in response.context["form"].errors
    made.refresh_from_db()
    assert made.state == "pending"
    assert not OrganizationReview.objects.exists()


@pytest.mark.parametrize("decision", ["restricted", "suspended"])
def test_taking_rights_away_needs_a_reason(client, decision):
    made = make_organization()
    address = reverse("admin:accounts_organization_decide", args=[made.pk, decision])
    assert client.post(address, {}).status_code == 400
    made.refresh_from_db()
    assert made.state == "approved"
    client.post(address, {"note": "Chargeback"})
    made.refresh_from_db()
    assert made.state == decision


def test_the_actions_lead_to_the_record_of_one_organization(client):
    one, other = make_organization(), make_organization()
    listing = page(Organization, "changelist")
    response = client.post(listing, {"action": "suspend", "_selected_action": [one.pk]})
    assert response.url == reverse("admin:accounts_organization_decide", args=[one.pk, "suspended"])
    response = client.post(
        listing, {"action": "suspend", "_selected_action": [one.pk, other.pk]}, follow=True
    )
    assert "Choose one organization" in said(response)
    assert set(Organization.objects.values_list("state", flat=True)) == {"approved"}


def test_unknown_decisions_and_organizations_are_404(client):
    made = make_organization()
    for args in ([made.pk, "pending"], [made.pk, "deleted"], [made.pk + 999, "approved"]):
        assert client.get(reverse("admin:accounts_organization_decide", args=args)).status_code == 404


def test_staff_without_the_permission_decide_nothing():
    made = make_organization(state="pending")
    limited = make_user(is_staff=True)
    limited.user_permissions.add(Permission.objects.get(codename="view_organization"))
    client = Client()
    client.force_login(limited)
    address = reverse("admin:accounts_organization_decide", args=[made.pk, "approved"])
    assert client.post(address, RECORD).status_code == 403
    assert address not in client.get(page(Organization, "change", made.pk)).content.decode()
    made.refresh_from_db()
    assert made.state == "pending"


def test_details_are_corrected_and_the_state_is_not_typed(client, staff):
    made = make_organization(name="Old", state="pending")
    given = {
        "name": "New",
        "segment": "lab",
        "country": "FR",
        "state": "approved",
        "billing_email": "",
        "billing_address": "",
        "tax_id": "",
    }
    inlines = {f"{p}-{f}": 0 for p in ("reviews", "memberships") for f in ("TOTAL_FORMS", "INITIAL_FORMS")}
    client.post(page(Organization, "change", made.pk), given | inlines)
    made.refresh_from_db()
    assert (made.name, made.country, made.state) == ("New", "FR", "pending")
    event = Event.objects.get(kind="organization.updated")
    assert (event.actor, event.before["name"], event.after["name"]) == (staff, "Old", "New")


@pytest.mark.parametrize("model", [Event, Invitation, ApiToken, SSHKey, Project])
def test_what_the_product_writes_is_not_typed_over(client, model):
    fill()
    row = model.objects.first()
    before = model.objects.values().get(pk=row.pk)
    assert client.get(page(model, "add")).status_code == 403
    assert client.post(page(model, "change", row.pk), {"kind": "x", "name": "x"}).status_code == 403
    assert client.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    client.post(
        page(model, "changelist"), {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    )
    assert model.objects.values().get(pk=row.pk) == before


def test_nobody_and_no_customer_is_deleted(client):
    owner, _ = fill()
    assert client.post(page(User, "delete", owner.user.pk), {"post": "yes"}).status_code == 403
    assert (
        client.post(page(Organization, "delete", owner.organization.pk), {"post": "yes"}).status_code == 403
    )
    assert Organization.objects.exists()


class TestMembers:
    def test_staff_change_a_role(self, client, staff):
        owner = make_membership(organization=make_organization(), role="owner")
        member = make_membership(organization=owner.organization, role="viewer")
        client.post(page(Membership, "change", member.pk), {"role": "admin"})
        member.refresh_from_db()
        assert member.role == "admin"
        assert Event.objects.get(kind="member.role_changed").actor == staff

    def test_staff_add_somebody_once(self, client):
        organization, somebody = make_organization(owner=make_user()), make_user()
        given = {"organization": organization.pk, "user": somebody.pk, "role": "billing"}
        client.post(page(Membership, "add"), given)
        assert Membership.objects.get(user=somebody).role == "billing"
        assert Event.objects.get(kind="member.joined")
        client.post(page(Membership, "add"), given)
        assert Membership.objects.filter(user=somebody).count() == 1

    def test_the_last_owner_stays_here_too(self, client):
        owner = make_membership(organization=make_organization(), role="owner")
        response = client.post(page(Membership, "change", owner.pk), {"role": "viewer"}, follow=True)
        assert "last owner" in said(response)
        response = client.post(page(Membership, "delete", owner.pk), {"post": "yes"}, follow=True)
        assert "last owner" in said(response)
        owner.refresh_from_db()
        assert owner.role == "owner"
        assert not Event.objects.exists()

    def test_removal_is_the_products_own(self, client):
        owner = make_membership(organization=make_organization(), role="owner")
        admin = make_membership(organization=owner.organization, role="admin")
        tokens.create_token(
            actor=admin.user,
            organization=owner.organization,
            name="ci",
            scopes=["read"],
            expires_at=NOW + timedelta(days=9),
            now=NOW,
        )
        client.post(page(Membership, "delete", admin.pk), {"post": "yes"})
        assert not Membership.objects.filter(pk=admin.pk).exists()
        assert ApiToken.objects.get().revoked_at == NOW
        assert Event.objects.get(kind="member.removed")


def test_staff_revoke_tokens_and_invitations(client, staff):
    fill()
    for model, action in ((ApiToken, "revoke"), (Invitation, "revoke")):
        row = model.objects.get()
        for _ in range(2):
            client.post(page(model, "changelist"), {"action": action, "_selected_action": [row.pk]})
        row.refresh_from_db()
        assert row.revoked_at == NOW
    assert Event.objects.filter(kind="token.revoked", actor=staff).count() == 1
    assert Event.objects.filter(kind="invitation.revoked", actor=staff).count() == 1


def test_sending_an_invitation_again_says_why_not(client):
    fill()
    row = Invitation.objects.get()
    response = client.post(
        page(Invitation, "changelist"), {"action": "send_again", "_selected_action": [row.pk]}, follow=True
    )
    assert "a moment ago" in said(response)


class TestPeople:
    def test_staff_add_a_person_without_a_password(self, client):
        client.post(
            page(User, "add"),
            {"email": "New@Example.com", "full_name": "New", "usable_password": "false"},
        )
        made = User.objects.get(email="new@example.com")
        assert not made.has_usable_password()
        assert Event.objects.get(kind="user.created_by_staff")

    def test_making_staff_is_in_the_log(self, client, staff):
        somebody = make_user()
        given = {
            "full_name": "",
            "time_zone": "UTC",
            "is_active": "on",
            "is_staff": "on",
            "email": "other@example.com",
        }
        given |= {f"memberships-{name}": 0 for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
        client.post(page(User, "change", somebody.pk), given)
        email = somebody.email
        somebody.refresh_from_db()
        assert somebody.is_staff
        assert somebody.email == email  # its owner changes it, and proves the new one
        event = Event.objects.get(kind="user.changed_by_staff")
        assert (event.before, event.after["is_staff"]) == ({"is_staff": False}, True)

    def test_who_edits_people_cannot_become_a_superuser(self, staff):
        editor = make_user(is_staff=True)
        editor.user_permissions.add(*Permission.objects.filter(codename__in=["change_user", "view_user"]))
        customer = make_user()
        client = Client()
        client.force_login(editor)
        given = {"full_name": "Renamed", "time_zone": "UTC", "is_superuser": "on", "is_staff": "on"}
        given |= {f"memberships-{name}": 0 for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
        client.post(page(User, "change", customer.pk), given)
        customer.refresh_from_db()
        assert (customer.full_name, customer.is_staff, customer.is_superuser) == ("Renamed", False, False)
        for other in (staff, editor):
            assert client.post(page(User, "change", other.pk), given).status_code == 403
            address = reverse("admin:auth_user_password_change", args=[other.pk])
            assert client.post(address, {"password1": "x", "password2": "x"}).status_code == 403
        editor.refresh_from_db()
        assert not editor.is_superuser

    def test_a_lost_second_factor_is_removed_and_sessions_end(self, client, staff):
        somebody = make_user()
        Authenticator.objects.create(user=somebody, type="totp", data={})
        theirs = Client()
        theirs.force_login(somebody)
        listing = page(User, "changelist")
        action = {"action": "remove_second_factors", "_selected_action": [somebody.pk]}
        client.post(listing, action)
        assert not Authenticator.objects.exists()
        assert theirs.get("/join/").wsgi_request.user.is_anonymous
        assert client.get(listing).status_code == 200  # one's own session stays
        event = Event.objects.get(kind="user.factors_removed_by_staff")
        assert (event.actor, event.before["types"]) == (staff, ["totp"])
        assert "no second factor" in said(client.post(listing, action, follow=True))
