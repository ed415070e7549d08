"""Buying reserved capacity: found, bought once whatever happens, and held as a commitment (P6)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory.models import Commitment
from inventory.providers.base import TAG_SITE, TAG_TOKEN, Capability, Provider
from leases.buying import inquiries, purchases
from leases.models import CapacityChoice, CapacityPurchase
from leases.provisioning import upstream
from portal.accounts.models import Event
from tests.contract.counterpart import Counterpart, Refusal
from tests.contract.stage import Stage, at
from tests.factories import make_user

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.needs(lambda counterpart: counterpart.sells_capacity),
]

NODES, HOURS = 2, 48
TOMORROW = 24 * 60


@pytest.fixture
def choice(stage: Stage) -> CapacityChoice:
    """What the provider would sell for two nodes and two days, from tomorrow on."""
    stage.poll_well(0)
    inquiry = inquiries.ask(
        gpu_model=stage.instance_type.gpu_model.slug,
        gpus=NODES * stage.instance_type.gpus_per_node,
        gpus_per_node=stage.instance_type.gpus_per_node,
        hours=HOURS,
        start=at(TOMORROW),
        end=at(TOMORROW) + timedelta(days=20),
        actor=None,
        now=at(1),
    )
    assert inquiries.answer_due(now=at(1)) == 1
    inquiry.refresh_from_db()
    assert inquiry.problems == []
    found = inquiry.choices.filter(instance_type=stage.instance_type).exclude(offering_id="")
    choice = found.order_by("total").first()
    assert choice is not None
    assert (choice.nodes, choice.account) == (NODES, stage.account)
    assert choice.total is not None
    assert choice.period.upper - choice.period.lower >= timedelta(hours=HOURS - 1)
    return choice


def decide(choice: CapacityChoice) -> CapacityPurchase:
    return purchases.buy(
        choice_id=choice.pk,
        agreed_total=str(choice.total),
        actor=make_user(is_staff=True, is_superuser=True),
        now=at(2),
    )


def test_looking_buys_nothing(choice: CapacityChoice, counterpart: Counterpart, provider: Provider) -> None:
    assert Capability.BUYABLE_CAPACITY in provider.capabilities
    assert counterpart.purchase_calls() == 0
    assert counterpart.reservations() == {}


def test_a_reservation_is_bought_and_becomes_a_commitment(
    choice: CapacityChoice, counterpart: Counterpart
) -> None:
    purchase = decide(choice)
    assert purchases.settle_due(now=at(2)) == 1
    assert purchases.settle_due(now=at(60)) == 0
    assert counterpart.purchase_calls() == 1
    purchase.refresh_from_db()
    commitment = purchase.commitment
    assert commitment is not None
    [(sold, tags)] = counterpart.reservations().items()
    assert commitment.reservation_id == sold
    assert (tags[TAG_TOKEN], tags[TAG_SITE]) == (purchase.token, upstream.site_id())
    assert (commitment.quantity, commitment.promised) == (NODES, choice.period)
    assert commitment.cost_per_node_hour > 0


def test_a_purchase_whose_answer_is_lost_is_found_and_not_repeated(
    stage: Stage, choice: CapacityChoice, counterpart: Counterpart
) -> None:
    purchase = decide(choice)
    counterpart.lose_purchase_answer()
    assert purchases.settle_due(now=at(2)) == 0
    purchase.refresh_from_db()
    stage.readable(purchase.last_error)
    assert not Commitment.objects.exists()
    assert purchases.settle_due(now=at(10)) == 1
    assert counterpart.purchase_calls() == 1
    [commitment] = Commitment.objects.all()
    assert {commitment.reservation_id} == set(counterpart.reservations())


def test_a_purchase_that_is_not_allowed_is_told_and_never_made(
    stage: Stage, choice: CapacityChoice, counterpart: Counterpart
) -> None:
    purchase = decide(choice)
    counterpart.refuse_purchases(Refusal.CREDENTIALS)
    for minutes in (2, 30, 90):
        assert purchases.settle_due(now=at(minutes)) == 0
    purchase.refresh_from_db()
    assert purchase.state == CapacityPurchase.State.FAILED
    stage.readable(Event.objects.get(kind="purchase.failed", organization=None).message)
    assert counterpart.purchase_calls() == 1
    assert counterpart.reservations() == {}
    assert not Commitment.objects.exists()


def test_a_purchase_without_capacity_is_tried_again(choice: CapacityChoice, counterpart: Counterpart) -> None:
    decide(choice)
    counterpart.refuse_purchases(Refusal.NO_CAPACITY)
    assert purchases.settle_due(now=at(2)) == 0
    assert purchases.settle_due(now=at(20)) == 1
    assert counterpart.purchase_calls() == 2
    assert len(counterpart.reservations()) == 1
