"""Invitations: one open per address, for that address, once, and the link only in the mail."""

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress

from portal.accounts import invitations, members
from portal.accounts.invitations import InvitationOver, OtherAddress
from portal.accounts.models import Event, Invitation, Membership
from portal.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from tests.factories import NOW, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(days=15)


@pytest.fixture
def owner():
    return make_membership(organization=make_organization(), role="owner")


def invite(owner, email="New@Example.com", role="member", now=NOW):
    return invitations.invite(
        actor=owner.user, organization=owner.organization, email=email, role=role, now=now
    )


def accept(token, user, now=NOW):
    return invitations.accept_invitation(user=user, token=token, now=now)


def test_an_invitation_is_accepted_by_its_address(owner):
    invitation, token = invite(owner)
    me = make_user(email="new@example.com")
    member = accept(token, me)
    assert (member.organization, member.role, member.user) == (owner.organization, "member", me)
    invitation.refresh_from_db()
    assert (invitation.accepted_at, invitation.accepted_by) == (NOW, me)
    assert invitation.sealed_token is None
    kinds = list(Event.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["invitation.created", "member.joined", "invitation.accepted"]


def test_accepting_again_answers_the_same(owner):
    _, token = invite(owner)
    me = make_user(email="new@example.com")
    assert accept(token, me) == accept(token, me)
    assert Membership.objects.filter(user=me).count() == 1
    assert Event.objects.filter(kind="member.joined").count() == 1


def test_a_verified_second_address_counts_and_an_unverified_one_does_not(owner):
    _, token = invite(owner)
    me = make_user(email="me@example.com")
    address = EmailAddress.objects.create(user=me, email="new@example.com", verified=False)
    with pytest.raises(OtherAddress):
        accept(token, me)
    assert not Membership.objects.filter(user=me).exists()
    address.verified = True
    address.save()
    assert accept(token, me).user == me


def test_somebody_else_cannot_use_the_link(owner):
    invitation, token = invite(owner)
    with pytest.raises(OtherAddress, match=r"new@example\.com"):
        accept(token, make_user(email="other@example.com"))
    invitation.refresh_from_db()
    assert invitation.accepted_at is None
    assert Membership.objects.count() == 1


def test_the_token_is_in_no_event_and_only_encrypted_in_the_row(owner):
    invitation, token = invite(owner)
    assert len(token) >= 43  # 256 bits
    stored = Invitation.objects.values().get(pk=invitation.pk)
    assert token not in str(stored)
    assert token.encode() not in bytes(stored["sealed_token"])
    assert invitations.link_token(invitation) == token
    for event in Event.objects.all():
        assert token not in f"{event.before}{event.after}{event.message}"


@pytest.mark.parametrize("token", ["", "nonsense", "\x00", "é" * 500])
def test_a_wrong_link_is_not_found(owner, token):
    invite(owner)
    with pytest.raises(NotFound):
        invitations.find_invitation(token=token, now=NOW)
    with pytest.raises(NotFound):
        accept(token, make_user(email="new@example.com"))
    assert Membership.objects.count() == 1


def test_an_expired_one_is_over_and_makes_room(owner):
    first, token = invite(owner)
    me = make_user(email="new@example.com")
    with pytest.raises(InvitationOver, match="expired"):
        accept(token, me, now=LATER)
    _, token = invite(owner, now=LATER)
    assert accept(token, me, now=LATER).user == me
    first.refresh_from_db()
    assert first.revoked_at == LATER


def test_a_revoked_one_is_over(owner):
    invitation, token = invite(owner)
    invitations.revoke_invitation(actor=owner.user, invitation=invitation, now=NOW)
    with pytest.raises(InvitationOver, match="taken back"):
        accept(token, make_user(email="new@example.com"))
    with pytest.raises(InvitationOver):
        invitations.revoke_invitation(actor=owner.user, invitation=invitation, now=NOW)
    invitation.refresh_from_db()
    assert invitation.sealed_token is None
    assert Membership.objects.count() == 1


def test_one_open_invitation_per_address(owner):
    invite(owner)
    with pytest.raises(invitations.AlreadyInvited):
        invite(owner, email=" NEW@example.com ")
    assert Invitation.objects.count() == 1
    assert Event.objects.count() == 1


def test_members_are_not_invited(owner):
    with pytest.raises(members.AlreadyMember):
        invite(owner, email=owner.user.email.upper())
    assert not Invitation.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [({"email": "not an address"}, "email"), ({"email": ""}, "email"), ({"role": "king"}, "role")],
)
def test_bad_input_names_its_field(owner, change, field):
    with pytest.raises(InvalidInput) as refused:
        invite(owner, **change)
    assert refused.value.field == field
    assert not Invitation.objects.exists()


@pytest.mark.parametrize(
    ("role", "wanted"),
    [("member", "viewer"), ("billing", "viewer"), ("viewer", "viewer"), ("admin", "owner")],
)
def test_who_may_not_invite_whom(owner, role, wanted):
    actor = make_membership(organization=owner.organization, role=role)
    with pytest.raises(Forbidden):
        invite(actor, role=wanted)
    assert not Invitation.objects.exists()


def test_our_mail_is_no_cannon(owner, monkeypatch):
    monkeypatch.setattr(invitations, "MOST_OPEN", 2)
    invite(owner, email="a@example.com")
    invite(owner, email="b@example.com")
    with pytest.raises(invitations.TooManyInvitations):
        invite(owner, email="c@example.com")
    assert Invitation.objects.count() == 2


def test_sending_again_prolongs_and_is_not_for_every_second(owner):
    invitation, token = invite(owner)
    with pytest.raises(Conflict):
        invitations.resend_invitation(actor=owner.user, invitation=invitation, now=NOW)
    invitations.resend_invitation(actor=owner.user, invitation=invitation, now=LATER)
    invitation.refresh_from_db()
    assert invitation.expires_at == LATER + invitations.VALID_FOR
    assert invitations.link_token(invitation) == token
    assert Event.objects.filter(kind="invitation.resent").count() == 1
    accept(token, make_user(email="new@example.com"), now=LATER)
    with pytest.raises(InvitationOver):
        invitations.resend_invitation(actor=owner.user, invitation=invitation, now=LATER)
