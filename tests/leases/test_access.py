"""Whose leases a person sees."""

from __future__ import annotations

import pytest

from leases.access import lease_for, leases_of
from portal.common.errors import Forbidden, NotFound
from tests.factories import make_fleet, make_lease, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def lease():
    make_fleet(nodes=2)
    return make_lease(organization=make_organization(owner=make_user()))


def test_members_see_their_leases_and_nobody_elses(lease):
    mine = make_membership(organization=lease.organization).user
    other = make_membership(organization=make_organization()).user
    assert lease_for(user=mine, uid=lease.uid) == lease
    assert list(leases_of(user=mine, organization=lease.organization)) == [lease]
    for call in (
        lambda: lease_for(user=other, uid=lease.uid),
        lambda: lease_for(user=mine, uid="lse_nothing"),
        lambda: lease_for(user=mine, uid=lease.uid, organization=make_organization()),
        lambda: leases_of(user=other, organization=lease.organization),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize(
    ("role", "may"),
    [("owner", True), ("admin", True), ("member", True), ("billing", False), ("viewer", False)],
)
def test_only_roles_that_may_lease_act_on_one(lease, role, may):
    user = make_membership(organization=lease.organization, role=role).user
    assert lease_for(user=user, uid=lease.uid) == lease
    if may:
        assert lease_for(user=user, uid=lease.uid, permission="lease") == lease
    else:
        with pytest.raises(Forbidden):
            lease_for(user=user, uid=lease.uid, permission="lease")
