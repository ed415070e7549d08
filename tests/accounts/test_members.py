"""Roles are given and taken by those who may, and an owner always remains."""

import pytest

from portal.accounts import members, tokens
from portal.accounts.models import ApiToken, Event, Invitation, Membership
from portal.accounts.organizations import invite
from portal.common.errors import Forbidden, InvalidInput, NotFound
from tests.factories import NOW, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def team():
    organization = make_organization()
    return {
        role: make_membership(organization=organization, role=role)
        for role in ("owner", "admin", "member", "billing", "viewer")
    }


def change(team, actor, member, role):
    return members.change_role(
        actor=team[actor].user,
        organization=team["owner"].organization,
        member=team[member].user,
        role=role,
        now=NOW,
    )


def remove(team, actor, member):
    members.remove_member(
        actor=team[actor].user,
        organization=team["owner"].organization,
        member=team[member].user,
        now=NOW,
    )


def roles(team):
    return dict(Membership.objects.values_list("user__email", "role"))


@pytest.mark.parametrize(
    ("actor", "member", "role"),
    [
        ("owner", "viewer", "owner"),
        ("owner", "admin", "viewer"),
        ("admin", "viewer", "admin"),
        ("admin", "member", "billing"),
        ("admin", "admin", "viewer"),  # stepping down
    ],
)
def test_who_may_change_whose_role(team, actor, member, role):
    before = team[member].role
    assert change(team, actor, member, role).role == role
    event = Event.objects.get(kind="member.role_changed")
    assert (event.before["role"], event.after["role"]) == (before, role)
    assert event.actor == team[actor].user


@pytest.mark.parametrize(
    ("actor", "member", "role", "error"),
    [
        ("admin", "viewer", "owner", Forbidden),
        ("admin", "owner", "viewer", Forbidden),
        ("member", "viewer", "member", Forbidden),
        ("billing", "billing", "admin", Forbidden),
        ("viewer", "viewer", "owner", Forbidden),
        ("owner", "viewer", "king", InvalidInput),
        ("owner", "owner", "admin", members.LastOwner),
    ],
)
def test_what_is_refused_changes_nothing(team, actor, member, role, error):
    before = roles(team)
    with pytest.raises(error):
        change(team, actor, member, role)
    assert roles(team) == before
    assert not Event.objects.exists()


def test_the_same_role_again_is_no_event(team):
    change(team, "owner", "viewer", "viewer")
    assert not Event.objects.exists()


def test_an_owner_leaves_once_there_is_another(team):
    with pytest.raises(members.LastOwner):
        remove(team, "owner", "owner")
    change(team, "owner", "admin", "owner")
    remove(team, "owner", "owner")
    assert not Membership.objects.filter(pk=team["owner"].pk).exists()


def test_an_owner_who_may_not_sign_in_does_not_count(team):
    make_membership(organization=team["owner"].organization, user=make_user(is_active=False), role="owner")
    with pytest.raises(members.LastOwner):
        remove(team, "owner", "owner")
    assert Membership.objects.filter(pk=team["owner"].pk).exists()


@pytest.mark.parametrize(
    ("actor", "member"),
    [("member", "viewer"), ("viewer", "member"), ("admin", "owner"), ("billing", "admin")],
)
def test_removing_others_needs_the_role(team, actor, member):
    with pytest.raises(Forbidden):
        remove(team, actor, member)
    assert Membership.objects.count() == 5
    assert not Event.objects.exists()


@pytest.mark.parametrize("role", ["admin", "member", "billing", "viewer"])
def test_everybody_may_leave(team, role):
    members.leave(user=team[role].user, organization=team[role].organization, now=NOW)
    assert not Membership.objects.filter(pk=team[role].pk).exists()
    event = Event.objects.get(kind="member.removed")
    assert event.before == {"email": team[role].user.email, "role": role}


def test_removal_takes_tokens_and_open_invitations_along(team):
    admin, organization = team["admin"].user, team["admin"].organization
    _, secret = tokens.create_token(
        actor=admin,
        organization=organization,
        name="ci",
        scopes=["read"],
        expires_at=NOW.replace(year=2027),
        now=NOW,
    )
    invite(actor=admin, organization=organization, email="new@example.com", role="admin", now=NOW)
    remove(team, "owner", "admin")
    assert ApiToken.objects.get().revoked_at == NOW
    invitation = Invitation.objects.get()
    assert (invitation.revoked_at, invitation.sealed_token) == (NOW, None)
    make_membership(organization=organization, user=admin, role="admin")  # back again: the token stays dead
    assert tokens.authenticate(secret, now=NOW) is None


def test_a_stranger_learns_nothing(team):
    other = make_organization(owner=make_user())
    with pytest.raises(NotFound):
        members.change_role(
            actor=other.memberships.get().user,
            organization=team["owner"].organization,
            member=team["viewer"].user,
            role="admin",
            now=NOW,
        )
    with pytest.raises(NotFound):
        members.remove_member(
            actor=team["owner"].user,
            organization=team["owner"].organization,
            member=other.memberships.get().user,
            now=NOW,
        )
    assert Membership.objects.count() == 6
