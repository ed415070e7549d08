"""Signing up: a person with their organization, or with their invitation; the address is proved."""

import re

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.urls import reverse

from portal.accounts import invitations
from portal.accounts.models import Event, Membership, Organization, User
from tests.factories import NOW, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db
PASSWORD = "gradient-descent-42"
FORM = {
    "full_name": "Ada Lovelace",
    "email": "Ada@Example.com",
    "password1": PASSWORD,
    "password2": PASSWORD,
    "organization_name": "Engines",
    "segment": "lab",
    "country": "IE",
}


@pytest.fixture(autouse=True)
def _today(time_machine):
    time_machine.move_to(NOW, tick=False)


def sign_up(client, **changes):
    return client.post(reverse("account_signup"), FORM | changes)


def link_in(message):
    return re.search(r"https?://testserver(/\S+)", message.body).group(1)


def nothing_was_made():
    return not (User.objects.exists() or Organization.objects.exists() or Event.objects.exists())


def test_a_person_signs_up_with_their_organization(client, django_capture_on_commit_callbacks, settings):
    settings.SUBLET_AUTO_APPROVE = False
    with django_capture_on_commit_callbacks(execute=True):
        response = sign_up(client)
    assert response.status_code == 302
    me = User.objects.get()
    assert (me.email, me.full_name, me.is_staff) == ("ada@example.com", "Ada Lovelace", False)
    made = Organization.objects.get()
    assert (made.name, made.segment, made.country, made.state) == ("Engines", "lab", "IE", "pending")
    assert made.memberships.get().role == "owner"
    assert not EmailAddress.objects.get().verified
    [message] = mail.outbox
    assert message.to == ["ada@example.com"]


def test_nobody_is_signed_in_before_the_address_is_confirmed(client, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        sign_up(client)
    assert "_auth_user_id" not in client.session
    response = client.post(reverse("account_login"), {"login": "ada@example.com", "password": PASSWORD})
    assert response.url == reverse("account_email_verification_sent")
    assert "_auth_user_id" not in client.session

    address = link_in(mail.outbox[0])
    assert client.get(address).status_code == 200
    assert not EmailAddress.objects.get().verified  # a mail scanner that follows links confirms nothing
    client.post(address)
    assert EmailAddress.objects.get().verified
    assert client.session["_auth_user_id"] == str(User.objects.get().pk)  # the browser that signed up
    assert Event.objects.filter(kind="user.email_confirmed").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"full_name": " "}, "full_name"),
        ({"email": "nobody"}, "email"),
        ({"password2": "other"}, "password2"),
        ({"password1": "12345678", "password2": "12345678"}, "password1"),
        ({"organization_name": "\u2028"}, "organization_name"),
        ({"organization_name": "x" * 121}, "organization_name"),
        ({"segment": "bank"}, "segment"),
        ({"country": "XX"}, "country"),
        ({"country": ""}, "country"),
    ],
)
def test_bad_input_is_shown_at_its_field_and_makes_nothing(client, changes, field):
    response = sign_up(client, **changes)
    assert response.status_code == 200
    assert field in response.context["form"].errors
    assert nothing_was_made()
    assert not mail.outbox


def test_a_failure_half_way_leaves_no_person_behind(client, monkeypatch):
    def fail(**kwargs):
        raise RuntimeError("the database went away")

    monkeypatch.setattr("portal.accounts.forms.add_organization", fail)
    with pytest.raises(RuntimeError):
        sign_up(client)
    assert nothing_was_made()


def test_a_known_address_is_not_told_to_strangers(client, django_capture_on_commit_callbacks):
    make_user(email="ada@example.com", password="x")
    with django_capture_on_commit_callbacks(execute=True):
        response = sign_up(client)
    assert response.url == reverse("account_email_verification_sent")  # as for a new one
    assert User.objects.count() == 1
    assert not Organization.objects.exists()
    [message] = mail.outbox
    assert "already" in message.body


def test_the_same_address_in_the_same_moment(client, monkeypatch, django_capture_on_commit_callbacks):
    make_user(email="ada@example.com")
    monkeypatch.setattr(  # the check found nothing, and then somebody was faster
        "allauth.account.internal.flows.manage_email.email_already_exists", lambda value: (value, False)
    )
    with django_capture_on_commit_callbacks(execute=True):
        response = sign_up(client)
    assert response.url == reverse("account_email_verification_sent")
    assert User.objects.count() == 1
    assert not Organization.objects.exists()


class TestWithInvitation:
    @pytest.fixture
    def invited(self):
        owner = make_membership(
            organization=make_organization(name="Analytical"), role="owner", user=make_user()
        )
        return invitations.invite(
            actor=owner.user, organization=owner.organization, email="ada@example.com", role="member", now=NOW
        )

    def open(self, client, invited):
        response = client.get(reverse("accounts:invitation", args=[invited[1]]))
        assert response.url == reverse("accounts:join")  # the token leaves the address bar
        assert invited[1] not in str(dict(client.session))
        return client.get(response.url)

    def test_the_link_says_who_invites_whom(self, client, invited):
        page = self.open(client, invited)
        assert page.status_code == 200
        assert b"Analytical" in page.content
        assert b"ada@example.com" in page.content
        assert page["Cache-Control"].startswith("max-age=0")

    def test_a_new_person_joins_instead_of_founding(self, client, invited):
        self.open(client, invited)
        form = client.get(reverse("account_signup")).context["form"]
        assert "organization_name" not in form.fields
        # Another address in the form changes nothing: the invitation is for this one.
        sign_up(client, email="other@example.com")
        me = User.objects.get(full_name="Ada Lovelace")
        assert me.email == "ada@example.com"
        assert not EmailAddress.objects.get(user=me).verified  # the address is still proved by its own mail
        member = Membership.objects.get(user=me)
        assert (member.organization.name, member.role) == ("Analytical", "member")
        assert Organization.objects.count() == 1

    def test_an_invitation_taken_back_meanwhile_makes_nobody(self, client, invited):
        self.open(client, invited)
        form_was_open = client.session["invitation"]
        invitations.revoke_invitation(actor=invited[0].invited_by, invitation=invited[0], now=NOW)
        page = client.get(reverse("accounts:join"))
        assert page.status_code == 404
        assert form_was_open
        response = sign_up(client, organization_name="")
        assert "organization_name" in response.context["form"].errors  # it is an ordinary sign-up again
        assert User.objects.count() == 1

    def test_somebody_with_an_account_signs_in_and_accepts(self, client, invited):
        me = make_user(email="ada@example.com")
        self.open(client, invited)
        client.force_login(me)
        session = client.session
        session["invitation"] = invited[0].uid
        session.save()
        page = client.get(reverse("accounts:join"))
        assert b"Accept the invitation" in page.content
        assert not Membership.objects.filter(user=me).exists()  # looking is not accepting
        response = client.post(reverse("accounts:join"))
        assert response.status_code == 302
        assert Membership.objects.get(user=me).organization.name == "Analytical"
        assert client.session["organization"] == invited[0].organization.uid

    def test_the_wrong_person_is_told_so(self, client, invited):
        me = make_user(email="eve@example.com")
        client.force_login(me)
        self.open(client, invited)
        response = client.post(reverse("accounts:join"))
        assert response.status_code == 403
        assert b"Sign in with that address" in response.content
        assert not Membership.objects.filter(user=me).exists()

    @pytest.mark.parametrize("token", ["nonsense", "x" * 2000, "%00"])
    def test_a_wrong_link_is_404(self, client, token):
        assert client.get(f"/join/{token}/").status_code == 404

    def test_a_used_link_says_so(self, client, invited):
        invitations.accept_invitation(user=make_user(email="ada@example.com"), token=invited[1], now=NOW)
        page = client.get(reverse("accounts:invitation", args=[invited[1]]))
        assert page.status_code == 409
        assert b"already accepted" in page.content


def test_choosing_an_organization_needs_to_be_a_member_of_it(client):
    me = make_user()
    first, second = make_organization(owner=me), make_organization(owner=me)
    client.force_login(me)
    address = reverse("accounts:choose-organization")
    response = client.post(address, {"organization": second.uid, "next": "https://evil.example/"})
    assert response.url == "/"
    assert client.session["organization"] == second.uid
    assert client.post(address, {"organization": make_organization().uid}).status_code == 404
    assert client.session["organization"] == second.uid
    assert client.get(address).status_code == 405
    assert first != second
