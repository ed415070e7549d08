"""A choice becomes a commitment once: by contract at once, by API through the journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from inventory.models import Commitment, Zone
from inventory.providers.base import TAG_SITE, TAG_TOKEN
from inventory.providers.errors import AuthFailed, NoCapacity, ProviderError, RateLimited, TimedOut
from leases.buying import held, inquiries, purchases
from leases.buying.audit import CHECKS
from leases.models import CapacityChoice, CapacityInquiry, CapacityPurchase
from portal.accounts.models import Event
from portal.common.crypto import encrypt
from portal.common.errors import Conflict, InvalidInput
from portal.common.periods import period
from tests.concurrency import race
from tests.factories import H100, NOW
from tests.leases.buying.conftest import Market, ask

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("account", "offer")]
State = CapacityPurchase.State


@pytest.fixture(autouse=True)
def _audited():
    yield
    for check in CHECKS:
        # Purchases of these tests are dated in the future of the database's clock: only their content counts.
        assert check.outcome().violations == 0


@pytest.fixture
def choice(buyer, market) -> CapacityChoice:
    ask(buyer)
    inquiries.answer_due(now=NOW)
    return CapacityChoice.objects.get(offering_id="cbo-1")


def buy(choice: CapacityChoice, buyer, **changes) -> CapacityPurchase:
    return purchases.buy(
        **{"choice_id": choice.pk, "agreed_total": str(choice.total), "actor": buyer, "now": NOW, **changes}
    )


# --- asking


def test_list_prices_are_there_at_once(buyer, offer):
    inquiry = ask(buyer)
    (row,) = inquiry.choices.all()
    assert (row.nodes, row.total, row.offering_id) == (4, Decimal("55.04") * 4 * 720, "")
    assert row.seen_at == NOW
    assert inquiry.answered_at is None


def test_nodes_are_whole(buyer, offer):
    assert ask(buyer, gpus=9).choices.get().nodes == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gpu_model": "h9000"}, "gpu_model"),
        ({"gpus": 0}, "gpus"),
        ({"hours": 10_000_000}, "hours"),
        ({"end": NOW - timedelta(days=1), "start": NOW - timedelta(days=2)}, "end"),
        ({"end": NOW + timedelta(hours=3)}, "end"),
    ],
)
def test_a_bad_question_names_its_field(buyer, changes, field):
    values = {
        "gpu_model": H100, "gpus": 8, "hours": 24, "start": NOW, "end": NOW + timedelta(days=9), **changes,
    }  # fmt: skip
    with pytest.raises(InvalidInput) as refusal:
        inquiries.ask(**values, actor=buyer, now=NOW)
    assert refusal.value.field == field
    assert not CapacityInquiry.objects.exists()


def test_clouds_that_sell_reservations_are_asked(choice, market):
    assert choice.total == Decimal("90000.00")
    assert [(asked.instance_type, asked.region, asked.count) for asked in market.asked] == [
        ("p5.48xlarge", "us-east-1", 4)
    ]
    assert inquiries.answer_due(now=NOW) == 0  # once is enough


def test_a_cloud_that_fails_is_named_and_the_others_answer(buyer, market, monkeypatch):
    def refuse(request):
        raise AuthFailed("describe: the provider refused these credentials.")

    monkeypatch.setattr(market, "capacity_offerings", refuse)
    inquiry = ask(buyer)
    assert inquiries.answer_due(now=NOW) == 1
    inquiry.refresh_from_db()
    assert inquiry.answered_at is not None
    assert "refused these credentials" in inquiry.problems[0]
    assert inquiry.choices.count() == 1  # the list price


@pytest.mark.parametrize("total", [Decimal("NaN"), Decimal("-5"), Decimal("1e30")])
def test_an_offering_with_an_impossible_price_is_no_choice(buyer, market, total):
    market.offerings = [replace(market.offerings[0], total=total)]
    ask(buyer)
    inquiries.answer_due(now=NOW)
    assert not CapacityChoice.objects.exclude(offering_id="").exists()


def test_old_inquiries_are_forgotten_but_those_of_purchases(buyer, choice):
    ask(buyer)
    buy(choice, buyer)
    inquiries.forget_old(now=NOW + timedelta(days=91))
    assert CapacityInquiry.objects.get() == choice.inquiry


# --- by contract


def commit(choice: CapacityChoice, buyer, **changes) -> Commitment:
    values = {
        "choice_id": choice.pk,
        "cost_per_node_hour": Decimal("40"),
        "quantity": 4,
        "promised": period(NOW, NOW + timedelta(days=30)),
        "payment": Commitment.Payment.MONTHLY,
        "actor": buyer,
        "now": NOW,
    }
    return purchases.commit_by_contract(**{**values, **changes})


def test_a_list_price_becomes_a_commitment_in_one_step(buyer, account):
    choice = ask(buyer).choices.get()
    commitment = commit(choice, buyer, reservation_id="cr-77")
    assert (commitment.account, commitment.quantity, commitment.reservation_id) == (account, 4, "cr-77")
    assert commitment.zone == Zone.objects.get(code="us-east-1a")
    assert choice.taken.commitment == commitment
    assert Event.objects.filter(kind="commitment.entered", subject_id=commitment.uid).exists()


def test_a_choice_is_taken_once(buyer):
    choice = ask(buyer).choices.get()
    commit(choice, buyer)
    with pytest.raises(purchases.AlreadyTaken):
        commit(choice, buyer)
    assert Commitment.objects.count() == 1


def test_a_commitment_that_makes_no_sense_changes_nothing(buyer):
    choice = ask(buyer).choices.get()
    with pytest.raises(InvalidInput):
        commit(choice, buyer, promised=period(NOW, NOW + timedelta(minutes=5)))
    assert not Commitment.objects.exists()
    assert not CapacityPurchase.objects.exists()


# --- by API


def test_a_reservation_is_bought_and_becomes_a_commitment(buyer, choice, market):
    purchase = buy(choice, buyer)
    assert market.calls == 0, "nothing is called inside the transaction"
    assert purchases.settle_due(now=NOW) == 1
    purchase.refresh_from_db()
    commitment = purchase.commitment
    assert purchase.state == State.BOUGHT
    assert commitment is not None
    (reservation,) = market.sold
    assert commitment.reservation_id == reservation.id
    assert reservation.tags[TAG_TOKEN] == purchase.token
    assert reservation.tags[TAG_SITE]
    assert commitment.cost_per_node_hour == Decimal("90000") / 4 / 720
    assert (commitment.quantity, commitment.payment) == (4, Commitment.Payment.UPFRONT)
    assert purchases.settle_due(now=NOW + timedelta(hours=1)) == 0
    assert market.calls == 1


def test_what_is_due_by_the_hour_costs_as_much_an_hour_when_it_begins_later(buyer, market, account, offer):
    """A reservation on demand ends when it was to end, and its provider lists it without a total."""
    market.offerings = [replace(market.offerings[0], upfront=Decimal(0))]
    inquiry = ask(buyer)
    inquiries.answer_due(now=NOW)
    taken = inquiry.choices.exclude(offering_id="").get()
    sold = market.buy_capacity
    later = taken.period.lower + timedelta(days=10)
    market.buy_capacity = lambda *args, **names: replace(sold(*args, **names), start=later, total=None)
    purchase = buy(taken, buyer)
    assert purchases.settle_due(now=NOW) == 1
    purchase.refresh_from_db()
    commitment = purchase.commitment
    assert (commitment.promised.lower, commitment.promised.upper) == (later, taken.period.upper)
    assert commitment.cost_per_node_hour == Decimal("90000") / 4 / 720
    assert commitment.payment == Commitment.Payment.MONTHLY
    assert "60000" in commitment.note


@pytest.mark.parametrize("agreed", ["", "89999.00000000", "NaN"])
def test_what_was_not_agreed_to_is_not_bought(buyer, choice, market, agreed):
    with pytest.raises(Conflict):
        buy(choice, buyer, agreed_total=agreed)
    purchases.settle_due(now=NOW)
    assert not CapacityPurchase.objects.exists()
    assert market.calls == 0


def test_an_account_that_may_not_be_sublet_buys_nothing(buyer, choice, account, market):
    account.resale_allowed = False
    account.save()
    with pytest.raises(Conflict):
        buy(choice, buyer)
    assert not CapacityPurchase.objects.exists()


def test_a_lost_answer_is_looked_for_and_never_bought_twice(buyer, choice, market):
    purchase = buy(choice, buyer)
    market.after = [TimedOut("purchase: no answer in time.")]
    assert purchases.settle_due(now=NOW) == 0
    assert purchases.settle_due(now=NOW + timedelta(minutes=10)) == 1
    purchase.refresh_from_db()
    assert purchase.state == State.BOUGHT
    assert (market.calls, len(market.sold)) == (1, 1)
    assert Event.objects.filter(kind="purchase.in_doubt").exists()


def test_a_doubt_without_a_reservation_fails_and_is_not_repeated(buyer, choice, market):
    purchase = buy(choice, buyer)
    market.before = [TimedOut("purchase: no answer in time.")]
    for minutes in (0, 5, 20, 40, 60):
        purchases.settle_due(now=NOW + timedelta(minutes=minutes))
    purchase.refresh_from_db()
    assert purchase.state == State.FAILED
    assert market.calls == 1
    assert Event.objects.filter(kind="purchase.failed").count() == 1


def test_a_worker_that_died_after_the_call_does_not_buy_twice(buyer, choice, market):
    class WorkerDied(BaseException):
        pass

    purchase = buy(choice, buyer)
    market.after = [WorkerDied()]  # type: ignore[list-item]
    with pytest.raises(WorkerDied):
        purchases.settle_due(now=NOW)
    assert purchases.settle_due(now=NOW + timedelta(minutes=1)) == 0, "the dead worker's claim still holds"
    assert purchases.settle_due(now=NOW + timedelta(minutes=30)) == 1
    purchase.refresh_from_db()
    assert purchase.state == State.BOUGHT
    assert (market.calls, len(market.sold)) == (1, 1)


@pytest.mark.parametrize("error", [RateLimited("slow down"), NoCapacity("none left")])
def test_what_certainly_had_no_effect_is_tried_again(buyer, choice, market, error):
    buy(choice, buyer)
    market.before = [error]
    assert purchases.settle_due(now=NOW) == 0
    assert purchases.settle_due(now=NOW + timedelta(minutes=10)) == 1
    assert (market.calls, len(market.sold)) == (2, 1)


def test_a_refusal_for_good_is_told(buyer, choice, market):
    purchase = buy(choice, buyer)
    market.before = [ProviderError("purchase: the offering has expired.")]
    purchases.settle_due(now=NOW)
    purchase.refresh_from_db()
    assert purchase.state == State.FAILED
    assert "expired" in purchase.last_error
    assert not Commitment.objects.exists()


def test_a_reservation_that_failed_at_once_is_no_commitment(buyer, choice, market, monkeypatch):
    real = Market.buy_capacity
    monkeypatch.setattr(
        market,
        "buy_capacity",
        lambda *args, **named: replace(
            real(market, *args, **named), state="failed", raw_state="payment-failed"
        ),
    )
    purchase = buy(choice, buyer)
    purchases.settle_due(now=NOW)
    purchase.refresh_from_db()
    assert purchase.state == State.FAILED
    assert not Commitment.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_people_buy_one_choice_once(buyer, choice, market):
    results = race([lambda: buy(choice, buyer) for _ in range(4)])
    assert sum(isinstance(result, CapacityPurchase) for result in results) == 1
    assert sum(isinstance(result, purchases.AlreadyTaken) for result in results) == 3
    settled = race([lambda: purchases.settle_due(now=NOW) for _ in range(3)])
    assert sorted(settled) == [0, 0, 1]
    assert len(market.sold) == 1


# --- afterwards


def test_a_reservation_that_went_away_is_told(buyer, choice, market):
    buy(choice, buyer)
    purchases.settle_due(now=NOW)
    assert held.check_reservations(now=NOW) == 0
    market.sold.clear()
    assert held.check_reservations(now=NOW) == 1
    assert held.check_reservations(now=NOW + timedelta(hours=1)) == 1
    event = Event.objects.get(kind="reservation.differs")
    assert "lists no such reservation" in event.message


def test_a_group_of_reservations_is_not_taken_for_a_missing_one(buyer, choice, market):
    buy(choice, buyer)
    purchases.settle_due(now=NOW)
    market.sold.clear()
    Commitment.objects.update(reservation_id="arn:aws:resource-groups:us-east-1:123456789012:group/gpus")
    assert held.check_reservations(now=NOW) == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"count": 3}, "3 nodes"),
        ({"state": "ended", "raw_state": "expired"}, "expired"),
        ({"instance_type": "p4d.24xlarge"}, "p4d.24xlarge"),
        ({"end": NOW + timedelta(days=1)}, "before the commitment"),
    ],
)
def test_a_reservation_that_is_not_what_was_bought_is_told(buyer, choice, market, change, word):
    buy(choice, buyer)
    purchases.settle_due(now=NOW)
    market.sold[:] = [replace(market.sold[0], **change)]
    assert held.check_reservations(now=NOW) == 1
    assert word in Event.objects.get(kind="reservation.differs").message


def test_a_listing_that_fails_says_nothing(buyer, choice, market, monkeypatch):
    def refuse(*, region):
        raise TimedOut("reservations: no answer in time.")

    buy(choice, buyer)
    purchases.settle_due(now=NOW)
    monkeypatch.setattr(market, "reservations", refuse)
    assert held.check_reservations(now=NOW) == 0
    assert not Event.objects.filter(kind="reservation.differs").exists()


def test_a_doubt_is_not_settled_by_a_listing_of_another_account(buyer, choice, market, account):
    purchase = buy(choice, buyer)
    market.after = [TimedOut("purchase: no answer in time.")]
    purchases.settle_due(now=NOW)
    before = account.credentials
    account.credentials = encrypt({"key": "of another account"})
    account.save()
    market.owner, market.unlisted = "999999999999", True
    for minutes in (10, 30, 60):
        assert purchases.settle_due(now=NOW + timedelta(minutes=minutes)) == 0
    purchase.refresh_from_db()
    assert purchase.state == State.CALLING
    assert "999999999999" in purchase.last_error
    account.credentials = before
    account.save()
    market.owner, market.unlisted = "123456789012", False
    assert purchases.settle_due(now=NOW + timedelta(minutes=90)) == 1
    assert market.calls == 1


@pytest.mark.parametrize(
    "change",
    [{"id": 7}, {"count": "4"}, {"start": None}, {"end": NOW.replace(tzinfo=None)}, {"total": 90000.0}],
)
def test_a_garbled_offering_is_no_choice_and_the_inquiry_is_answered(buyer, market, monkeypatch, change):
    garbled = replace(market.offerings[0], **{"start": NOW, "end": NOW + timedelta(hours=720), **change})
    monkeypatch.setattr(market, "capacity_offerings", lambda request: [garbled, None])
    inquiry = ask(buyer)
    assert inquiries.answer_due(now=NOW) == 1
    assert not inquiry.choices.exclude(offering_id="").exists()


def test_an_account_is_for_the_regions_that_it_names(buyer, account, offer):
    account.options = {"regions": ["eu-west-1"]}
    account.save()
    assert ask(buyer).choices.get().account is None
    account.options = {"regions": ["us-east-1"]}
    account.save()
    assert ask(buyer).choices.get().account == account
