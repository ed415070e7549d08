"""API tokens: shown once, hashed, scoped, expiring, and never above their creator."""

import hashlib
from datetime import timedelta

import pytest

from portal.accounts import tokens
from portal.accounts.models import ApiToken, Event, Membership
from portal.common.errors import Forbidden, InvalidInput
from tests.factories import NOW, make_membership, make_organization

pytestmark = pytest.mark.django_db
MONTH = timedelta(days=30)


@pytest.fixture
def admin():
    return make_membership(organization=make_organization(), role="admin")


def create(admin, **changes):
    given = {"name": "ci", "scopes": ["read", "lease"], "expires_at": NOW + MONTH, "now": NOW}
    return tokens.create_token(actor=admin.user, organization=admin.organization, **(given | changes))


def test_the_secret_is_returned_once_and_stored_as_a_hash(admin):
    token, secret = create(admin)
    assert secret.startswith("sublet_")
    assert len(secret) == len("sublet_") + 43  # 256 bits in base64url
    stored = ApiToken.objects.values().get(pk=token.pk)
    assert bytes(stored["token_hash"]) == hashlib.sha256(secret.encode()).digest()
    assert secret not in str(stored)
    assert secret.startswith(stored["hint"])
    assert len(stored["hint"]) == 12  # 30 of 256 bits, to tell tokens apart
    event = Event.objects.get(kind="token.created")
    assert secret not in str(event.after)
    assert token.hint not in str(event.after)
    assert event.after["scopes"] == ["read", "lease"]


def test_it_authenticates_its_creator_in_its_organization(admin):
    token, secret = create(admin)
    found = tokens.authenticate(secret, now=NOW)
    assert (found, found.user, found.organization) == (token, admin.user, admin.organization)


def test_last_used_is_written_at_most_once_a_minute(admin, django_assert_num_queries):
    token, secret = create(admin)
    times = [0, 30, 59, 60, 61, 125]
    written = []
    for seconds in times:
        tokens.authenticate(secret, now=NOW + timedelta(seconds=seconds))
        token.refresh_from_db()
        written.append((token.last_used_at - NOW).total_seconds())
    assert written == [0, 0, 0, 60, 60, 125]


@pytest.mark.parametrize(
    "secret", ["", "sublet_", "sublet_wrong", "Bearer x", "sublet_" + "\x00" * 43, "sublet_" + "x" * 10_000]
)
def test_a_wrong_secret_is_nobody(admin, secret):
    create(admin)
    assert tokens.authenticate(secret, now=NOW) is None


def test_it_stops_when_it_expires(admin):
    _, secret = create(admin)
    assert tokens.authenticate(secret, now=NOW + MONTH - timedelta(seconds=1))
    assert tokens.authenticate(secret, now=NOW + MONTH) is None


def test_it_stops_when_it_is_revoked(admin):
    token, secret = create(admin)
    tokens.revoke_token(actor=admin.user, token=token, now=NOW)
    tokens.revoke_token(actor=admin.user, token=token, now=NOW + MONTH)
    assert tokens.authenticate(secret, now=NOW) is None
    token.refresh_from_db()
    assert token.revoked_at == NOW
    assert Event.objects.filter(kind="token.revoked").count() == 1


def test_it_stops_when_its_creator_leaves_or_may_not_sign_in(admin):
    _, secret = create(admin)
    admin.user.is_active = False
    admin.user.save()
    assert tokens.authenticate(secret, now=NOW) is None
    admin.user.is_active = True
    admin.user.save()
    assert tokens.authenticate(secret, now=NOW)
    admin.delete()
    assert tokens.authenticate(secret, now=NOW) is None


@pytest.mark.parametrize(
    ("role", "scopes", "allowed"),
    [
        ("owner", ["read"], {"view"}),
        ("owner", ["lease"], {"view", "lease"}),
        ("owner", ["billing"], {"view", "billing"}),
        ("owner", ["read", "lease", "billing"], {"view", "lease", "billing"}),
        ("viewer", ["read", "lease", "billing"], {"view"}),
        ("member", ["lease", "billing"], {"view", "lease"}),
        ("billing", ["lease", "billing"], {"view", "billing"}),
    ],
)
def test_it_may_what_its_scopes_and_its_creators_present_role_allow(admin, role, scopes, allowed):
    token, _ = create(admin, scopes=scopes)
    Membership.objects.filter(pk=admin.pk).update(role=role)
    assert tokens.permissions_of(token) == allowed
    for permission in ("view", "lease", "billing", "manage", "own"):
        if permission in allowed:
            tokens.require_scope(token, permission)
        else:
            with pytest.raises(Forbidden):
                tokens.require_scope(token, permission)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read", "admin"]}, "scopes"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": NOW - MONTH}, "expires_at"),
        ({"expires_at": NOW + timedelta(days=367)}, "expires_at"),
        ({"expires_at": (NOW + MONTH).replace(tzinfo=None)}, "expires_at"),
    ],
)
def test_bad_input_names_its_field_and_makes_nothing(admin, changes, field):
    with pytest.raises(InvalidInput) as refused:
        create(admin, **changes)
    assert refused.value.field == field
    assert not ApiToken.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("role", ["member", "billing", "viewer"])
def test_roles_below_admin_create_and_revoke_none(admin, role):
    token, _ = create(admin)
    other = make_membership(organization=admin.organization, role=role)
    with pytest.raises(Forbidden):
        create(other)
    with pytest.raises(Forbidden):
        tokens.revoke_token(actor=other.user, token=token, now=NOW)
    assert ApiToken.objects.get().revoked_at is None


def test_a_creator_who_lost_the_role_may_still_revoke_their_own(admin):
    token, secret = create(admin)
    Membership.objects.filter(pk=admin.pk).update(role="viewer")
    tokens.revoke_token(actor=admin.user, token=token, now=NOW)
    assert tokens.authenticate(secret, now=NOW) is None


def test_there_is_a_limit(admin, monkeypatch):
    monkeypatch.setattr(tokens, "MOST_TOKENS", 1)
    token, _ = create(admin)
    with pytest.raises(tokens.TooManyTokens):
        create(admin)
    tokens.revoke_token(actor=admin.user, token=token, now=NOW)
    create(admin)
    assert ApiToken.objects.count() == 2
