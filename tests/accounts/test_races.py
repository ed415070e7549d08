"""Two at once: the last owner, one invitation, the same request; and the races without their guards."""

import threading
from functools import partial

import pytest
from django.db import transaction

from portal.accounts import idempotency, invitations, members
from portal.accounts.models import Event, Membership, RequestKey
from portal.common.transactions import durable
from tests.concurrency import race
from tests.factories import NOW, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db(transaction=True)
ROUNDS = 10


def two_owners():
    organization = make_organization()
    return [make_membership(organization=organization, role="owner") for _ in range(2)]


def owners_left(organization):
    return Membership.objects.filter(organization=organization, role="owner").count()


@pytest.mark.parametrize("way", ["remove", "leave", "demote"])
def test_two_owners_who_go_at_once_leave_one(way):
    for _ in range(ROUNDS):
        one, two = two_owners()
        organization = one.organization

        def call(actor, target, organization=organization):
            if way == "leave":
                return lambda: members.leave(user=actor.user, organization=organization, now=NOW)
            if way == "demote":
                return lambda: members.change_role(
                    actor=actor.user, organization=organization, member=actor.user, role="viewer", now=NOW
                )
            return lambda: members.remove_member(
                actor=actor.user, organization=organization, member=target.user, now=NOW
            )

        results = race([call(one, two), call(two, one)])
        assert owners_left(organization) == 1
        assert sum(isinstance(result, Exception) for result in results) == 1


def test_without_the_lock_nobody_owns_it():
    """The race is real: looking and then writing, without locking the team, loses both owners."""
    one, two = two_owners()
    looked = threading.Barrier(2)

    def careless(target):
        with transaction.atomic():
            others = Membership.objects.filter(organization=target.organization, role="owner").exclude(
                pk=target.pk
            )
            seen = others.exists()
            looked.wait(20)
            if seen:
                target.delete()

    race([lambda: careless(one), lambda: careless(two)])
    assert owners_left(one.organization) == 0


def test_one_invitation_accepted_in_two_tabs_makes_one_member():
    for number in range(ROUNDS):
        owner = make_membership(organization=make_organization(), role="owner")
        email = f"new{number}@example.com"
        _, token = invitations.invite(
            actor=owner.user, organization=owner.organization, email=email, role="member", now=NOW
        )
        me = make_user(email=email)
        results = race([partial(invitations.accept_invitation, user=me, token=token, now=NOW)] * 4)
        assert len({result.pk for result in results}) == 1
        assert Membership.objects.filter(user=me).count() == 1
        assert Event.objects.filter(kind="member.joined", organization=owner.organization).count() == 1


def test_acceptance_against_revocation_has_one_outcome():
    for number in range(ROUNDS):
        owner = make_membership(organization=make_organization(), role="owner")
        email = f"new{number}@example.com"
        invitation, token = invitations.invite(
            actor=owner.user, organization=owner.organization, email=email, role="member", now=NOW
        )
        me = make_user(email=email)
        results = race(
            [
                partial(invitations.accept_invitation, user=me, token=token, now=NOW),
                partial(invitations.revoke_invitation, actor=owner.user, invitation=invitation, now=NOW),
            ]
        )
        invitation.refresh_from_db()
        joined = Membership.objects.filter(user=me).exists()
        assert joined == (invitation.accepted_at is not None) == (invitation.revoked_at is None)
        assert sum(isinstance(result, invitations.InvitationOver) for result in results) == 1


def test_the_same_address_invited_twice_at_once_gets_one_invitation():
    for number in range(ROUNDS):
        owner = make_membership(organization=make_organization(), role="owner")
        call = partial(
            invitations.invite,
            actor=owner.user,
            organization=owner.organization,
            email=f"new{number}@example.com",
            role="member",
            now=NOW,
        )
        results = race([call, call])
        assert sum(isinstance(result, invitations.AlreadyInvited) for result in results) == 1
        assert owner.organization.invitations.count() == 1


def do_once(organization, *, key="k1", payload="p", work):
    with durable():
        known = idempotency.recall(organization=organization, action="test", key=key, payload=payload)
        if known is not None:
            return known
        result = work()
        idempotency.remember(
            organization=organization, action="test", key=key, payload=payload, result=result
        )
        return result


def test_twins_of_a_request_do_the_work_once_and_answer_alike():
    organization = make_organization()

    def work():
        return {"member": make_membership(organization=organization).uid}

    results = race([lambda: do_once(organization, work=work)] * 8)
    assert len({result["member"] for result in results}) == 1
    assert Membership.objects.count() == 1
    assert RequestKey.objects.count() == 1


def test_a_twin_whose_elder_fails_does_the_work_itself():
    organization = make_organization()
    turns = iter(range(100))

    def work():
        if next(turns) == 0:
            raise RuntimeError("the first one fails")
        return {"member": make_membership(organization=organization).uid}

    results = race([lambda: do_once(organization, work=work)] * 4)
    failed = [result for result in results if isinstance(result, RuntimeError)]
    done = [result for result in results if isinstance(result, dict)]
    assert (len(failed), len(done)) == (1, 3)
    assert Membership.objects.count() == 1


def test_two_payloads_under_one_key_cannot_both_happen():
    organization = make_organization()

    def call(payload):
        return lambda: do_once(organization, payload=payload, work=lambda: {"did": payload})

    results = race([call("a"), call("b")])
    assert sum(isinstance(result, idempotency.RequestKeyReused) for result in results) == 1
    assert RequestKey.objects.count() == 1
