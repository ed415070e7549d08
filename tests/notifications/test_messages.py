"""Each mail: a subject, what happened, both clocks, a link, and never a secret that is not its own."""

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core import mail
from django.db import transaction
from django.utils import timezone

from billing.models import BillingAccount
from leases.models import Lease, Shortfall, Term
from portal.accounts import events, invitations, members, organizations, tokens
from portal.accounts.models import Event
from portal.common.periods import period
from portal.notifications import dispatch, sending
from portal.notifications.models import Delivery
from portal.notifications.rules import RULES
from portal.notifications.templatetags.notifications import clocks
from tests.factories import NOW, make_gpu_model, make_membership, make_organization, make_region, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _today(time_machine):
    time_machine.move_to(NOW, tick=False)


@pytest.fixture
def owner():
    me = make_user(email="owner@example.com", time_zone="Europe/Helsinki", full_name="Aino")
    return make_membership(organization=make_organization(name="R&D <Aurora>"), role="owner", user=me)


def told():
    """Send everything; return the mails by recipient."""
    dispatch.dispatch_events(now=NOW)
    sending.send_deliveries(now=NOW)
    assert set(Delivery.objects.values_list("state", flat=True)) <= {"sent", "dropped"}, list(
        Delivery.objects.values_list("last_error", flat=True)
    )
    return {message.to[0]: message for message in mail.outbox}


def make_lease(owner, state="active", **fields):
    lease = Lease.objects.create(
        organization=owner.organization, name="GPT & co", state=state, created_by=owner.user, **fields
    )
    Term.objects.create(
        lease=lease,
        period=period(NOW - timedelta(hours=2), NOW + timedelta(hours=20)),
        nodes=2,
        gpus_per_node=8,
        gpu_model=make_gpu_model(),
        region=make_region(),
    )
    return lease


def lease_event(lease, kind, before="", message="", **after):
    with transaction.atomic():
        return events.record(
            kind=kind,
            subject_type="lease",
            subject_id=lease.uid,
            organization=lease.organization,
            now=NOW,
            before={"state": before},
            after=after,
            message=message,
        )


def test_an_invitation_carries_its_link_and_only_the_mail_does(owner):
    _, token = invitations.invite(
        actor=owner.user, organization=owner.organization, email="new@example.com", role="admin", now=NOW
    )
    message = told()["new@example.com"]
    assert message.subject == "Aino invites you to R&D <Aurora> on Sublet"
    assert f"{django_settings.SUBLET_PUBLIC_URL}/join/{token}/" in message.body
    assert "with the role Admin" in message.body
    assert "15 Dec 2026, 09:00 UTC" in message.body  # an address without an account: UTC
    assert token not in str(list(Event.objects.values())) + str(list(Delivery.objects.values()))


def test_an_invitation_taken_back_before_it_was_sent_is_not_sent(owner):
    invitation, _ = invitations.invite(
        actor=owner.user, organization=owner.organization, email="new@example.com", role="admin", now=NOW
    )
    invitations.revoke_invitation(actor=owner.user, invitation=invitation, now=NOW)
    assert "new@example.com" not in told()
    assert Delivery.objects.get(recipient="new@example.com").state == "dropped"


def test_a_new_token_is_announced_without_any_part_of_it(owner):
    token, secret = tokens.create_token(
        actor=owner.user,
        organization=owner.organization,
        name="ci & cd",
        scopes=["read", "lease"],
        expires_at=NOW + timedelta(days=30),
        now=NOW,
    )
    body = told()["owner@example.com"].body
    assert "“ci & cd”" in body
    assert "Scopes: read, lease" in body
    assert "Thu 31 Dec 2026, 11:00 Europe/Helsinki (09:00 UTC)" in body
    assert secret not in body
    assert token.hint not in body


def test_joining_and_leaving_is_told_to_both_sides(owner):
    _, token = invitations.invite(
        actor=owner.user, organization=owner.organization, email="new@example.com", role="viewer", now=NOW
    )
    me = make_user(email="new@example.com")
    invitations.accept_invitation(user=me, token=token, now=NOW)
    mails = told()
    assert mails["owner@example.com"].subject == "new@example.com joined R&D <Aurora>"
    assert "Welcome" in mails["new@example.com"].body
    mail.outbox.clear()
    members.remove_member(actor=owner.user, organization=owner.organization, member=me, now=NOW)
    mails = told()
    assert mails["new@example.com"].subject == "You are no longer a member of R&D <Aurora>"
    assert "owner@example.com removed new@example.com" in mails["owner@example.com"].body


@pytest.mark.parametrize(
    ("decision", "subject"),
    [("restricted", "R&D <Aurora> cannot book for now"), ("suspended", "R&D <Aurora> is suspended")],
)
def test_a_decision_is_told_with_its_reason(owner, decision, subject):
    organizations.decide(
        organization=owner.organization, decision=decision, actor=None, now=NOW, note="Chargeback of May"
    )
    message = told()["owner@example.com"]
    assert message.subject == subject
    assert "Reason: Chargeback of May" in message.body


@pytest.mark.parametrize(
    ("state", "subject"),
    [
        ("scheduled", "Reserved: GPT & co"),
        ("active", "Ready: GPT & co"),
        ("ended", "Ended: GPT & co"),
        ("cancelled", "Cancelled: GPT & co"),
        ("failed", "We could not deliver GPT & co"),
    ],
)
def test_a_lease_tells_of_its_states(owner, state, subject):
    lease_event(make_lease(owner, state=state), f"lease.{state}")
    message = told()["owner@example.com"]
    assert message.subject == subject
    assert "16 × H100 SXM 80 GB on 2 servers" in message.body
    assert "Until: Wed 2 Dec 2026, 07:00 Europe/Helsinki (05:00 UTC)" in message.body
    assert django_settings.SUBLET_PUBLIC_URL in message.body


def test_a_lease_of_one_server_does_not_speak_of_servers(owner):
    lease = make_lease(owner, state="scheduled")
    lease.terms.update(nodes=1)
    lease_event(lease, "lease.scheduled")
    assert "What: 8 × H100 SXM 80 GB on one server\n" in told()["owner@example.com"].body


def test_a_payment_is_asked_for_while_it_is_awaited(owner):
    billing = make_membership(organization=owner.organization, role="billing").user
    lease = make_lease(owner, state="awaiting", deadline=NOW + timedelta(hours=24))
    lease_event(lease, "lease.awaiting")
    mails = told()
    assert set(mails) == {"owner@example.com", billing.email}
    assert "Wed 2 Dec 2026, 11:00 Europe/Helsinki (09:00 UTC)" in mails["owner@example.com"].body
    mail.outbox.clear()
    Lease.objects.filter(pk=lease.pk).update(state="scheduled", deadline=None)  # funds arrived meanwhile
    lease_event(lease, "lease.awaiting")
    assert not told()


def test_a_hold_that_lapses_is_no_news_and_an_unpaid_lease_is(owner):
    lease = make_lease(owner, state="lapsed")
    lease_event(lease, "lease.lapsed", before="held")
    assert not told()
    lease_event(lease, "lease.lapsed", before="awaiting")
    assert told()["owner@example.com"].subject == "Dropped for lack of payment: GPT & co"


def test_the_end_is_announced_until_it_has_come(owner):
    lease = make_lease(owner)
    end = NOW + timedelta(minutes=30)
    lease_event(lease, "lease.ends_soon", message="The lease ends in 30 minutes.", ends_at=end.isoformat())
    body = told()["owner@example.com"].body
    assert "ends at Tue 1 Dec 2026, 11:30 Europe/Helsinki (09:30 UTC)" in body
    assert "in 30 minutes" in body
    mail.outbox.clear()
    lease_event(lease, "lease.ends_soon", ends_at=NOW.isoformat())
    assert not told()


def test_what_is_missing_is_told_as_it_is_now(owner):
    lease = make_lease(owner)
    rows = [
        Shortfall.objects.create(
            lease=lease,
            period=period(NOW - timedelta(minutes=5), NOW + timedelta(hours=20)),
            cause="late",
            detail="The server is still being prepared.",
        )
        for _ in range(2)
    ]
    for _ in rows:
        lease_event(lease, "lease.shortfall_opened", message="ignored: the state of now counts")
    message = told()["owner@example.com"]
    assert len(mail.outbox) == 1
    assert (
        "2 servers of your lease “GPT & co” are missing, the first since Tue 1 Dec 2026, 10:55"
        in message.body
    )
    assert message.body.count("The server is still being prepared.") == 1
    mail.outbox.clear()
    Shortfall.objects.update(closed_at=NOW)
    lease_event(lease, "lease.shortfall_closed")
    assert told()["owner@example.com"].subject == "All servers are there: GPT & co"


def test_a_top_up_tells_the_amount_and_the_balance(owner):
    BillingAccount.objects.create(organization=owner.organization, currency="EUR")
    with transaction.atomic():
        events.record(
            kind="account.topped_up",
            subject_type="organization",
            subject_id=owner.organization.uid,
            organization=owner.organization,
            now=NOW,
            after={"amount": str(Decimal("1234.5")), "balance": "2000.00000000", "reference": "SEPA 7"},
        )
    message = told()["owner@example.com"]
    assert message.subject == "We received €1,234.50"
    assert "Wallet: €2,000.00" in message.body
    assert "SEPA 7" in message.body


def test_a_name_cannot_break_the_headers(owner):
    owner.organization.name = "Evil\r\nBcc: all@example.com"
    owner.organization.save()
    organizations.decide(
        organization=owner.organization, decision="suspended", actor=None, now=NOW, note="because"
    )
    message = told()["owner@example.com"]
    assert "\n" not in message.subject
    assert message.recipients() == ["owner@example.com"]
    assert "Bcc" not in message.message()


def test_both_clocks():
    assert clocks(NOW) == "Tue 1 Dec 2026, 09:00 UTC"
    with timezone.override("America/Los_Angeles"):
        assert clocks(NOW) == "Tue 1 Dec 2026, 01:00 America/Los_Angeles (09:00 UTC)"
        early = NOW.replace(hour=3)
        assert clocks(early) == "Mon 30 Nov 2026, 19:00 America/Los_Angeles (Tue 1 Dec 2026, 03:00 UTC)"
    assert clocks(None) == "–"


def test_every_rule_has_its_template_and_every_template_a_rule():
    folder = Path(django_settings.BASE_DIR) / "templates" / "notifications"
    assert {rule.template for rule in RULES.values()} | {"base"} == {file.stem for file in folder.iterdir()}
    for file in folder.glob("[!b]*.txt"):
        text = file.read_text()
        assert re.search(r"{% block subject %}.+{% endblock subject %}", text), file
