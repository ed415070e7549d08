"""What only staff see is mailed to staff, and to nobody else."""

from __future__ import annotations

import pytest
from django.core import mail

from portal.accounts import events
from portal.common.transactions import durable
from portal.notifications import dispatch, sending
from portal.notifications.models import Delivery
from tests.factories import NOW, make_organization, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_violated_invariant_reaches_staff_only() -> None:
    make_organization(owner=make_user(email="customer@example.com"))
    make_user(email="staff@example.com", is_staff=True)
    make_user(email="left@example.com", is_staff=True, is_active=False)
    with durable():
        events.record(
            kind="audit.violated",
            subject_type="audit",
            subject_id="2026-12-01",
            now=NOW,
            after={"C1": 2},
            message="C1: 2",
        )
    while dispatch.dispatch_events(now=NOW):
        pass
    assert [row.recipient for row in Delivery.objects.all()] == ["staff@example.com"]
    sending.send_deliveries(now=NOW)
    assert mail.outbox[0].to == ["staff@example.com"]
    assert "audit.violated" in mail.outbox[0].subject
    assert "C1: 2" in mail.outbox[0].body
    assert "/admin/accounts/event/" in mail.outbox[0].body
