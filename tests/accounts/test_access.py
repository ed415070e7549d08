"""The table of roles, and that a tenant's rows are nobody else's."""

import pytest

from portal.accounts import access
from portal.accounts.models import Membership
from portal.common.errors import Forbidden, NotFound
from tests.factories import make_membership, make_organization, make_project, make_ssh_key, make_user

pytestmark = pytest.mark.django_db

# Written out once more: a change of the table must be a change of this test too.
TABLE = {
    "owner": {"view", "lease", "billing", "manage", "own"},
    "admin": {"view", "lease", "billing", "manage"},
    "member": {"view", "lease"},
    "billing": {"view", "billing"},
    "viewer": {"view"},
}
PERMISSIONS = ["view", "lease", "billing", "manage", "own"]


def test_the_table_names_every_role():
    assert set(access.PERMISSIONS) == set(Membership.Role.values) == set(TABLE)


@pytest.mark.parametrize("role", TABLE)
@pytest.mark.parametrize("permission", PERMISSIONS)
def test_require_follows_the_table(role, permission):
    member = make_membership(organization=make_organization(), role=role)

    def ask():
        return access.require(user=member.user, organization=member.organization, permission=permission)

    if permission in TABLE[role]:
        assert ask() == member
    else:
        with pytest.raises(Forbidden):
            ask()


def test_roles_with_a_permission():
    assert access.roles_with("lease") == ["owner", "admin", "member"]
    assert access.roles_with("billing") == ["owner", "admin", "billing"]


def test_a_stranger_gets_not_found_rather_than_forbidden():
    with pytest.raises(NotFound):
        access.require(user=make_user(), organization=make_organization(), permission="view")


@pytest.mark.parametrize("role", TABLE)
def test_another_tenants_rows_do_not_exist(role):
    me = make_membership(organization=make_organization(), role=role).user
    theirs = make_organization(owner=make_user())
    project, key = make_project(organization=theirs), make_ssh_key(organization=theirs)
    member = theirs.memberships.get()
    for fetch, uid in (
        (access.project_for, project.uid),
        (access.ssh_key_for, key.uid),
        (access.member_for, member.uid),
    ):
        with pytest.raises(NotFound):
            fetch(user=me, uid=uid)


def test_a_row_of_ones_own_needs_the_role():
    viewer = make_membership(organization=make_organization(), role="viewer")
    project = make_project(organization=viewer.organization)
    assert access.project_for(user=viewer.user, uid=project.uid) == project
    with pytest.raises(Forbidden):
        access.project_for(user=viewer.user, uid=project.uid, permission="manage")


def test_a_token_is_pinned_to_its_organization():
    me = make_user()
    one, other = make_organization(owner=me), make_organization(owner=me)
    project = make_project(organization=one)
    assert access.project_for(user=me, uid=project.uid, organization=one) == project
    with pytest.raises(NotFound):
        access.project_for(user=me, uid=project.uid, organization=other)


@pytest.mark.parametrize("uid", ["", "prj_nothere", "a\x00b", "x" * 5000, "' OR 1=1 --"])
def test_nonsense_ids_are_not_found(uid):
    me = make_user()
    make_organization(owner=me)
    with pytest.raises(NotFound):
        access.project_for(user=me, uid=uid)
    with pytest.raises(NotFound):
        access.organization_for(user=me, uid=uid)


def test_the_current_organization_is_the_sessions_choice_else_the_first():
    me = make_user()
    first, second = make_organization(owner=me), make_organization(owner=me)
    assert access.organization_for(user=me) == first
    me.chosen_organization = second.uid
    assert access.organization_for(user=me) == second
    me.chosen_organization = make_organization().uid  # left, or never mine
    assert access.organization_for(user=me) == first
    assert access.organizations_of(user=me) == [first, second]


def test_without_any_organization_there_is_a_sentence_that_says_so():
    with pytest.raises(access.NoOrganization, match="Create one"):
        access.organization_for(user=make_user())
