"""The log is appended to and never rewritten; what a person's account does is in it."""

import pytest
from django.db import ProgrammingError, transaction

from portal.accounts import events, idempotency
from portal.accounts.models import Event, Outbox, RequestKey
from portal.common.errors import InvalidInput
from portal.common.transactions import durable
from tests.factories import NOW, make_organization, make_user


def record(**changes):
    given = {"kind": "test.done", "subject_type": "test", "subject_id": "1", "now": NOW}
    with transaction.atomic():
        return events.record(**(given | changes))


@pytest.mark.django_db(transaction=True)
def test_an_event_needs_the_transaction_of_its_change():
    with pytest.raises(RuntimeError, match="transaction"):
        events.record(kind="x", subject_type="x", subject_id="x", now=NOW)


@pytest.mark.django_db
def test_each_event_comes_with_its_outbox_row():
    me = make_user()
    event = record(actor=me)
    assert Outbox.objects.get().event == event
    assert event.actor_label == me.email
    assert record().actor_label == "system"


@pytest.mark.django_db(transaction=True)
def test_the_product_cannot_rewrite_the_log():
    event = record()
    for change in (
        lambda: Event.objects.filter(pk=event.pk).update(kind="other"),
        lambda: Event.objects.filter(pk=event.pk).update(after={"a": 1}),
        lambda: Event.objects.filter(pk=event.pk)._raw_delete("default"),
    ):
        with pytest.raises(ProgrammingError, match="permission denied"):
            change()
    assert Event.objects.get().kind == "test.done"


@pytest.mark.django_db
def test_many_events_of_a_transaction_nudge_the_dispatcher_once(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as nudges, transaction.atomic():
        for _ in range(5):
            record()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            record()
            _ = 1 / 0
    assert len(nudges) == 1


@pytest.mark.django_db
def test_a_nudge_that_a_savepoint_took_back_does_not_count(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as nudges, transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            record()
            _ = 1 / 0
        assert not nudges
        record()
    assert len(nudges) == 1


@pytest.mark.django_db
def test_the_log_outlives_the_person():
    me = make_user(email="gone@example.com")
    event = record(actor=me)
    me.delete()
    event.refresh_from_db()
    assert (event.actor, event.actor_label) == (None, "gone@example.com")


@pytest.mark.django_db
class TestRequestKeys:
    def ask(self, organization, payload, key="k", result=None):
        with durable():
            known = idempotency.recall(organization=organization, action="a", key=key, payload=payload)
            if known is None:
                idempotency.remember(
                    organization=organization, action="a", key=key, payload=payload, result=result
                )
            return known

    def test_the_same_request_answers_the_same(self):
        mine = make_organization()
        assert self.ask(mine, {"nodes": 2, "gpu": "h100"}, result={"id": "q1"}) is None
        assert self.ask(mine, {"gpu": "h100", "nodes": 2}) == {"id": "q1"}  # order does not matter

    def test_another_request_under_the_key_is_a_conflict(self):
        mine = make_organization()
        self.ask(mine, {"nodes": 2}, result={"id": "q1"})
        with pytest.raises(idempotency.RequestKeyReused):
            self.ask(mine, {"nodes": 3})
        assert RequestKey.objects.get().result == {"id": "q1"}

    def test_keys_belong_to_their_organization(self):
        self.ask(make_organization(), "p", result=1)
        assert self.ask(make_organization(), "p", result=2) is None

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "a\nb"])
    def test_a_key_that_cannot_be_kept_is_refused(self, key):
        with pytest.raises(InvalidInput) as refused:
            self.ask(make_organization(), "p", key=key)
        assert refused.value.field == "request_key"
        assert not RequestKey.objects.exists()
