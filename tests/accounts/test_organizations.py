"""How an organization begins, what staff decide about it, and what that allows."""

import pytest

from portal.accounts import organizations
from portal.accounts.models import Event, Organization, OrganizationReview, Outbox
from portal.common.errors import Forbidden, InvalidInput
from tests.factories import NOW, make_membership, make_organization, make_user

pytestmark = pytest.mark.django_db

RECORD = {
    "legal_name": "Aurora Labs Ltd, CRO 123456",
    "country": "ie",
    "end_use": "Protein language models",
    "screening_evidence": "EU consolidated list, 2026-12-01, no match, ref 991",
    "terms_version": "2026-10",
}


def create(user, **changes):
    given = {"name": " Aurora\n Labs ", "segment": "lab", "country": "ie", "now": NOW}
    return organizations.create_organization(user=user, **(given | changes))


def test_the_creator_owns_it_and_it_waits_for_approval(settings):
    settings.SUBLET_AUTO_APPROVE = False
    me = make_user()
    made = create(me)
    assert (made.name, made.country, made.state) == ("Aurora Labs", "IE", "pending")
    assert made.memberships.get(user=me).role == "owner"
    event = Event.objects.get(organization=made)
    assert (event.kind, event.actor, event.at) == ("organization.created", me, NOW)
    assert Outbox.objects.filter(event=event).exists()
    assert not made.reviews.exists()


def test_the_setting_approves_at_once_and_says_so_in_the_record(settings):
    settings.SUBLET_AUTO_APPROVE = True
    made = create(make_user())
    assert Organization.objects.get(pk=made.pk).state == "approved"
    review = made.reviews.get()
    assert (review.decision, review.decided_by, review.decided_at) == ("approved", None, NOW)
    assert "SUBLET_AUTO_APPROVE" in review.note


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "  "}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"segment": "bank"}, "segment"),
        ({"country": "XX"}, "country"),
    ],
)
def test_bad_details_are_refused_and_nothing_is_made(changes, field):
    with pytest.raises(InvalidInput) as refused:
        create(make_user(), **changes)
    assert refused.value.field == field
    assert not Organization.objects.exists()
    assert not Event.objects.exists()


def test_staff_approve_with_the_whole_record():
    staff, made = make_user(is_staff=True), make_organization(state="pending")
    review = organizations.decide(
        organization=made, decision="approved", actor=staff, now=NOW, note="Known customer", **RECORD
    )
    made.refresh_from_db()
    assert (made.state, made.country) == ("approved", "IE")
    assert review.screening_evidence == RECORD["screening_evidence"]
    event = Event.objects.get(kind="organization.approved")
    assert (event.before, event.after["state"], event.actor) == ({"state": "pending"}, "approved", staff)
    organizations.check_may_book(made)


@pytest.mark.parametrize("missing", list(RECORD))
def test_an_approval_without_a_part_of_the_record_changes_nothing(missing):
    staff, made = make_user(is_staff=True), make_organization(state="pending")
    with pytest.raises(InvalidInput) as refused:
        organizations.decide(
            organization=made, decision="approved", actor=staff, now=NOW, **(RECORD | {missing: " "})
        )
    assert refused.value.field == missing
    made.refresh_from_db()
    assert made.state == "pending"
    assert not OrganizationReview.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize("decision", ["restricted", "suspended"])
def test_taking_rights_away_needs_a_reason(decision):
    staff, made = make_user(is_staff=True), make_organization()
    with pytest.raises(InvalidInput) as refused:
        organizations.decide(organization=made, decision=decision, actor=staff, now=NOW)
    assert refused.value.field == "note"
    organizations.decide(organization=made, decision=decision, actor=staff, now=NOW, note="Chargeback")
    made.refresh_from_db()
    assert made.state == decision


def test_customers_do_not_decide_about_themselves():
    me = make_user()
    made = make_organization(owner=me, state="pending")
    with pytest.raises(Forbidden):
        organizations.decide(organization=made, decision="approved", actor=me, now=NOW, **RECORD)
    made.refresh_from_db()
    assert made.state == "pending"
    assert not made.reviews.exists()


def test_pending_is_no_decision():
    with pytest.raises(InvalidInput):
        organizations.decide(
            organization=make_organization(), decision="pending", actor=None, now=NOW, note="x"
        )


@pytest.mark.parametrize(
    ("state", "books", "launches"),
    [
        ("pending", False, True),
        ("approved", True, True),
        ("restricted", False, True),
        ("suspended", False, False),
    ],
)
def test_what_each_state_allows(state, books, launches):
    stale = make_organization(state="approved")
    Organization.objects.filter(pk=stale.pk).update(state=state)  # decided after the object was read
    if books:
        organizations.check_may_book(stale)
    else:
        with pytest.raises(organizations.NotApproved) as refused:
            organizations.check_may_book(stale)
        assert (refused.value.code, refused.value.status) == ("organization-not-approved", 403)
    if launches:
        organizations.check_may_launch(stale)
    else:
        with pytest.raises(organizations.Suspended):
            organizations.check_may_launch(stale)


def test_what_invoices_print_is_changed_by_those_who_see_money():
    billing = make_membership(organization=make_organization(name="Old"), role="billing")
    organizations.update_details(
        actor=billing.user,
        organization=billing.organization,
        now=NOW,
        name="New",
        billing_email="Pay@Example.com",
        billing_address="1 Street\nDublin",
        tax_id="IE1",
    )
    billing.organization.refresh_from_db()
    assert billing.organization.billing_email == "pay@example.com"
    event = Event.objects.get(kind="organization.updated")
    assert event.before["name"] == "Old"
    member = make_membership(organization=billing.organization, role="member")
    with pytest.raises(Forbidden):
        organizations.update_details(
            actor=member.user, organization=billing.organization, now=NOW, name="Mine"
        )
    billing.organization.refresh_from_db()
    assert billing.organization.name == "New"
