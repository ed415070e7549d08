"""Claims, retries and outcomes: sent outside any transaction, recorded only while the claim is ours."""

import smtplib
from datetime import timedelta

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection, transaction

from portal.accounts import events
from portal.accounts.models import Event
from portal.common.errors import Conflict
from portal.notifications import sending
from portal.notifications.models import Delivery
from tests.concurrency import race
from tests.factories import NOW, make_organization, make_user

HERE = "tests.notifications.test_sending"


class Backend(EmailBackend):
    """Does what the test says; records whether a transaction was open."""

    errors: list = []
    in_transaction: list = []

    def send_messages(self, messages):
        self.in_transaction.append(connection.in_atomic_block)
        if self.errors:
            error = self.errors.pop(0)
            if error:
                raise error
        return super().send_messages(messages)


@pytest.fixture(autouse=True)
def _backend(settings):
    settings.EMAIL_BACKEND = f"{HERE}.Backend"
    Backend.errors, Backend.in_transaction = [], []


def make_delivery(recipient="owner@example.com", **fields):
    organization = make_organization(name="Aurora")
    with transaction.atomic():
        event = events.record(
            kind="organization.suspended",
            subject_type="organization",
            subject_id=organization.uid,
            organization=organization,
            now=NOW,
            message="Chargeback",
        )
    return Delivery.objects.create(
        event=event, channel="email", recipient=recipient, next_try_at=NOW, **fields
    )


def send(now=NOW):
    return sending.send_deliveries(now=now)


@pytest.mark.django_db(transaction=True)
def test_a_delivery_is_sent_once_and_outside_any_transaction():
    delivery = make_delivery()
    assert send() == 1
    assert send() == 0
    [message] = mail.outbox
    assert (message.to, message.subject) == (["owner@example.com"], "Aurora is suspended")
    assert "Reason: Chargeback" in message.body
    assert Backend.in_transaction == [False]
    delivery.refresh_from_db()
    assert (delivery.state, delivery.sent_at, delivery.attempts) == ("sent", NOW, 1)
    assert (delivery.claim_token, delivery.claim_expires_at) == (None, None)


@pytest.mark.django_db
def test_nothing_is_sent_before_its_time():
    make_delivery()
    assert send(NOW - timedelta(seconds=1)) == 0
    assert not mail.outbox


@pytest.mark.django_db
def test_a_failure_is_tried_again_later_and_later_and_then_given_up():
    delivery, now, pauses = make_delivery(), NOW, []
    for _ in range(sending.MOST_ATTEMPTS):
        Backend.errors = [smtplib.SMTPServerDisconnected("gone away")]
        assert send(now) == 1
        delivery.refresh_from_db()
        if delivery.state == "pending":
            pauses.append(delivery.next_try_at - now)
            assert send(delivery.next_try_at - timedelta(seconds=1)) == 0
            now = delivery.next_try_at
    assert pauses == sending.PAUSES
    assert (delivery.state, delivery.attempts) == ("failed", sending.MOST_ATTEMPTS)
    assert delivery.last_error == "SMTPServerDisconnected: gone away"
    assert send(now + timedelta(days=30)) == 0
    assert not mail.outbox


@pytest.mark.django_db
def test_a_failure_holds_up_no_other_delivery():
    first, second = make_delivery(), make_delivery("second@example.com")
    Backend.errors = [ConnectionRefusedError("no server")]
    assert send() == 2
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == ("pending", "sent")


@pytest.mark.django_db
def test_an_address_that_does_not_exist_is_given_up_at_once():
    delivery = make_delivery()
    refused = {"owner@example.com": (550, b"no such mailbox")}
    Backend.errors = [smtplib.SMTPRecipientsRefused(refused)]
    send()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("failed", 1)
    assert "no such mailbox" in delivery.last_error


@pytest.mark.django_db
def test_a_full_mailbox_is_tried_again():
    delivery = make_delivery()
    refused = {"owner@example.com": (452, b"mailbox full")}
    Backend.errors = [smtplib.SMTPRecipientsRefused(refused)]
    send()
    delivery.refresh_from_db()
    assert delivery.state == "pending"


@pytest.mark.django_db
def test_what_is_over_is_dropped_not_sent():
    delivery = make_delivery()
    with transaction.atomic():
        delivery.event = events.record(
            kind="lease.active", subject_type="lease", subject_id="lse_gone", now=NOW
        )
    delivery.save()
    assert send() == 1
    delivery.refresh_from_db()
    assert delivery.state == "dropped"
    assert not mail.outbox


@pytest.mark.django_db
def test_a_claim_keeps_others_away_until_it_expires():
    delivery = make_delivery()
    claimed = sending.claim(now=NOW)
    assert claimed.pk == delivery.pk
    assert send(NOW + sending.CLAIM - timedelta(seconds=1)) == 0
    assert send(NOW + sending.CLAIM) == 1  # its worker died
    assert len(mail.outbox) == 1


@pytest.mark.django_db
def test_an_outcome_that_comes_too_late_is_not_recorded():
    delivery = make_delivery()
    slow = sending.claim(now=NOW)
    later = NOW + sending.CLAIM
    quick = sending.claim(now=later)
    assert not sending.record(slow, state="failed", now=later, error="slow")
    delivery.refresh_from_db()
    assert (delivery.state, delivery.last_error, delivery.claim_token) == ("pending", "", quick.claim_token)
    assert sending.record(quick, state="sent", now=later)
    assert not sending.record(slow, state="failed", now=later, error="slow")
    delivery.refresh_from_db()
    assert delivery.state == "sent"


@pytest.mark.django_db
def test_a_worker_that_dies_each_time_does_not_send_for_ever():
    delivery, now = make_delivery(), NOW
    for _ in range(sending.MOST_ATTEMPTS):
        assert sending.claim(now=now)
        now += sending.CLAIM
    assert sending.claim(now=now) is None
    delivery.refresh_from_db()
    assert delivery.state == "failed"


@pytest.mark.django_db
def test_attempts_share_a_message_id_and_sending_again_by_hand_does_not():
    delivery = make_delivery()
    Backend.errors = [smtplib.SMTPServerDisconnected("after the server took it")]
    send()
    send(NOW + timedelta(hours=1))
    first = mail.outbox[0].extra_headers["Message-ID"]
    delivery.refresh_from_db()
    staff = make_user(is_staff=True)
    sending.send_again(delivery=delivery, actor=staff, now=NOW)
    with pytest.raises(Conflict):
        sending.send_again(delivery=delivery, actor=staff, now=NOW)
    send()
    assert mail.outbox[1].extra_headers["Message-ID"] != first
    assert f"<delivery-{delivery.pk}-1@" in first
    event = Event.objects.get(kind="delivery.resent")
    assert (event.actor, event.before["state"]) == (staff, "sent")


@pytest.mark.django_db(transaction=True)
def test_many_senders_at_once_send_each_delivery_once():
    for number in range(40):
        make_delivery(f"person{number}@example.com")
    results = race([send] * 6)
    assert sum(results) == 40
    assert len({message.to[0] for message in mail.outbox}) == len(mail.outbox) == 40
    assert set(Delivery.objects.values_list("state", "attempts")) == {("sent", 1)}
