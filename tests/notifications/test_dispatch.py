"""From an event to deliveries: the right people, each once, whatever else fails."""

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.db import transaction

from portal.accounts import events
from portal.accounts.models import Outbox
from portal.notifications import dispatch, rules
from portal.notifications.models import Delivery
from tests.concurrency import race
from tests.factories import NOW, make_membership, make_organization, make_user


def record(organization, kind="account.topped_up", **changes):
    given = {
        "subject_type": "organization",
        "subject_id": organization.uid,
        "organization": organization,
        "now": NOW,
    }
    with transaction.atomic():
        return events.record(kind=kind, **(given | changes))


def team():
    organization = make_organization(billing_email="Accounts@example.com")
    for role in ("owner", "admin", "member", "billing", "viewer"):
        make_membership(organization=organization, role=role, user=make_user(email=f"{role}@example.com"))
    return organization


def recipients():
    return set(Delivery.objects.values_list("recipient", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("organization.suspended", {"owner", "admin"}),
        ("account.topped_up", {"owner", "admin", "billing", "accounts"}),
        ("invoice.finalized", {"owner", "admin", "billing", "accounts"}),
        ("quote.prepared", {"owner", "admin", "member"}),
        ("lease.active", {"owner", "admin"}),
        ("project.created", set()),
    ],
)
def test_roles_decide_who_is_told(kind, told):
    record(team(), kind)
    assert dispatch.dispatch_events(now=NOW) == 1
    assert recipients() == {f"{name}@example.com" for name in told}
    assert not Outbox.objects.exists()
    assert set(Delivery.objects.values_list("state", "channel", "attempts")) <= {("pending", "email", 0)}


@pytest.mark.django_db
def test_who_created_a_token_is_told_even_without_the_role_any_more():
    organization = team()
    me = make_membership(organization=organization, role="viewer").user
    record(organization, "token.created", actor=me)
    dispatch.dispatch_events(now=NOW)
    assert recipients() == {"owner@example.com", "admin@example.com", me.email}


@pytest.mark.django_db
def test_the_removed_person_is_told_too():
    organization, gone = team(), make_user(email="gone@example.com")
    record(organization, "member.removed", before={"email": gone.email})
    dispatch.dispatch_events(now=NOW)
    assert recipients() == {"owner@example.com", "admin@example.com", "gone@example.com"}


@pytest.mark.django_db
def test_nobody_else_and_nobody_twice():
    organization = make_organization()
    make_membership(organization=organization, role="owner", user=make_user(is_active=False))
    unproved = make_membership(organization=organization, role="owner").user
    EmailAddress.objects.create(user=unproved, email=unproved.email, verified=False)
    both = make_membership(organization=organization, role="owner").user
    organization.billing_email = both.email.upper()
    organization.save()
    make_membership(organization=make_organization(), role="owner")
    record(organization)
    dispatch.dispatch_events(now=NOW)
    assert list(Delivery.objects.values_list("recipient", flat=True)) == [both.email]


@pytest.mark.django_db
def test_an_event_that_is_too_old_is_only_history():
    record(team(), "organization.suspended", now=NOW - timedelta(days=8))
    assert dispatch.dispatch_events(now=NOW) == 1
    assert not Delivery.objects.exists()
    assert not Outbox.objects.exists()


@pytest.mark.django_db
def test_an_invoice_is_told_of_after_a_long_outage_too():
    record(team(), "invoice.finalized", now=NOW - timedelta(days=20))
    dispatch.dispatch_events(now=NOW)
    assert Delivery.objects.count() == 4


@pytest.mark.django_db
def test_approval_by_the_setting_is_no_news_and_by_staff_it_is():
    organization = team()
    record(organization, "organization.approved")
    dispatch.dispatch_events(now=NOW)
    assert not Delivery.objects.exists()
    record(organization, "organization.approved", actor=make_user(is_staff=True))
    dispatch.dispatch_events(now=NOW)
    assert recipients() == {"owner@example.com", "admin@example.com"}


@pytest.mark.django_db
def test_twenty_nodes_that_are_late_are_one_mail_per_person():
    organization = team()
    late = {"kind": "lease.shortfall_opened", "subject_type": "lease", "subject_id": "lse_1"}
    for minute in range(10):
        record(organization, **late, now=NOW + timedelta(minutes=minute))
    record(organization, **(late | {"subject_id": "lse_2"}))
    dispatch.dispatch_events(now=NOW)
    assert Delivery.objects.count() == 4  # two leases, two people
    record(organization, **late, now=NOW + timedelta(minutes=20))
    dispatch.dispatch_events(now=NOW)
    assert Delivery.objects.count() == 6


@pytest.mark.django_db
def test_a_rule_that_fails_holds_up_no_other_event(monkeypatch):
    def broken(event):
        raise RuntimeError("no such lease")

    rule = rules.Rule(template="top_up", to=broken)
    monkeypatch.setitem(rules.RULES, "lease.active", rule)
    monkeypatch.setattr(dispatch, "BATCH", 2)
    organization = team()
    bad = [record(organization, "lease.active") for _ in range(5)]
    record(organization)
    assert dispatch.dispatch_events(now=NOW) == 1
    assert Delivery.objects.count() == 4
    assert set(Outbox.objects.values_list("event_id", flat=True)) == {event.pk for event in bad}
    monkeypatch.undo()  # mended
    assert dispatch.dispatch_events(now=NOW) == 5
    assert not Outbox.objects.exists()


@pytest.mark.django_db
def test_running_it_again_changes_nothing():
    event = record(team())
    dispatch.dispatch_events(now=NOW)
    before = list(Delivery.objects.order_by("pk").values())
    assert dispatch.dispatch_events(now=NOW) == 0
    Outbox.objects.create(event=event)  # a row that came twice
    assert dispatch.dispatch_events(now=NOW) == 1
    assert list(Delivery.objects.order_by("pk").values()) == before


@pytest.mark.django_db(transaction=True)
def test_many_dispatchers_at_once_make_each_delivery_once():
    organization = make_organization(owner=make_user(email="owner@example.com"))
    for _ in range(60):
        record(organization)
    done = race([lambda: dispatch.dispatch_events(now=NOW)] * 6)
    assert not [result for result in done if isinstance(result, Exception)]
    while dispatch.dispatch_events(now=NOW):  # rows that were skipped while another held them
        pass
    assert not Outbox.objects.exists()
    assert Delivery.objects.count() == 60


@pytest.mark.django_db(transaction=True)
def test_a_row_that_another_dispatcher_holds_is_left_alone():
    record(make_organization(owner=make_user()))
    with transaction.atomic():
        Outbox.objects.select_for_update().get()
        assert race([lambda: dispatch.dispatch_events(now=NOW)]) == [0]
    assert dispatch.dispatch_events(now=NOW) == 1
