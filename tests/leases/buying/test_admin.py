"""Staff's pages of demand: they open, refuse with a reason, and lead to a commitment in one step."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from inventory.models import Commitment
from leases.buying import inquiries, purchases
from leases.models import CapacityChoice, CapacityInquiry, CapacityPurchase
from tests.factories import H100, NOW, make_fleet, make_user
from tests.leases.buying.conftest import ask
from tests.leases.buying.test_unmet import search

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("account", "offer")]


@pytest.fixture(autouse=True)
def _now(time_machine):
    time_machine.move_to(NOW, tick=False)


@pytest.fixture
def staff(buyer) -> Client:
    client = Client()
    client.force_login(buyer)
    return client


def url(name: str, *args) -> str:
    return reverse(f"admin:leases_{name}", args=args)


def test_demand_shows_what_was_wanted_and_asks_for_it(staff):
    make_fleet(nodes=2)
    search(5)
    page = staff.get(url("capacityinquiry_demand") + "?days=30").content.decode()
    assert "40 GPUs" in page.replace("\u00a0", " ")
    assert "gpus=40" in page
    assert "Ask the clouds" in page


def test_without_demand_the_page_says_so(staff):
    assert "Nothing is held" in staff.get(url("capacityinquiry_demand")).content.decode()


@pytest.mark.parametrize("days", ["x", "-1", "31", "²", "9" * 40])
def test_a_strange_range_is_the_usual_one(staff, days):
    assert staff.get(url("capacityinquiry_demand") + f"?days={days}").context["days"] == 90


def test_asking_leads_to_the_answers(staff, market):
    answer = staff.post(
        url("capacityinquiry_add"),
        {
            "gpu_model": H100, "gpus": 32, "gpus_per_node": 8, "hours": 720,
            "start": "2026-12-01T10:00", "end": "2027-02-01T10:00",
        },
    )  # fmt: skip
    inquiry = CapacityInquiry.objects.get()
    assert answer.url == url("capacityinquiry_change", inquiry.pk)
    page = staff.get(answer.url)
    assert "are being asked" in page.content.decode()
    inquiries.answer_due(now=NOW)
    part = staff.get(answer.url, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert "hx-get" not in part, "every cloud has answered"
    assert "$90,000.00" in part


def test_a_bad_question_is_refused_at_its_field(staff):
    answer = staff.post(
        url("capacityinquiry_add"),
        {
            "gpu_model": H100, "gpus": 32, "gpus_per_node": 8, "hours": 7200,
            "start": "2026-12-01T10:00", "end": "2026-12-02T10:00",
        },
    )  # fmt: skip
    assert answer.status_code == 400
    assert "The window is shorter" in answer.content.decode()
    assert not CapacityInquiry.objects.exists()


def test_types_with_smaller_nodes_are_left_out(buyer):
    inquiry = inquiries.ask(
        gpu_model=H100, gpus=32, gpus_per_node=16, hours=24, start=NOW, end=NOW.replace(day=20),
        actor=buyer, now=NOW,
    )  # fmt: skip
    assert not inquiry.choices.exists()


def test_a_list_price_becomes_a_commitment(staff, buyer):
    choice = ask(buyer).choices.get()
    address = url("capacitychoice_commit", choice.pk)
    assert 'value="55.040000"' in staff.get(address).content.decode()
    answer = staff.post(
        address,
        {
            "quantity": 4, "cost_per_node_hour": "41.5", "payment": "monthly",
            "start": "2026-12-02T10:00", "end": "2027-01-01T10:00", "reservation_id": "", "note": "",
        },
    )  # fmt: skip
    commitment = Commitment.objects.get()
    assert answer.url == reverse("admin:inventory_commitment_change", args=[commitment.pk])
    assert commitment.cost_per_node_hour == Decimal("41.5")
    again = staff.post(
        address,
        {
            "quantity": 4, "cost_per_node_hour": "41.5", "payment": "monthly",
            "start": "2026-12-02T10:00", "end": "2027-01-01T10:00",
        },
    )  # fmt: skip
    assert "was taken already" in again.content.decode()
    assert Commitment.objects.count() == 1


def test_a_period_that_ends_before_it_starts_is_refused(staff, buyer):
    choice = ask(buyer).choices.get()
    answer = staff.post(
        url("capacitychoice_commit", choice.pk),
        {
            "quantity": 4, "cost_per_node_hour": "41.5", "payment": "monthly",
            "start": "2027-01-02T10:00", "end": "2027-01-01T10:00",
        },
    )  # fmt: skip
    assert answer.status_code == 400
    assert not Commitment.objects.exists()


def test_buying_asks_once_more_and_then_buys(staff, buyer, market):
    ask(buyer)
    inquiries.answer_due(now=NOW)
    choice = CapacityChoice.objects.get(offering_id="cbo-1")
    address = url("capacitychoice_buy", choice.pk)
    page = staff.get(address).content.decode()
    assert "$90,000.00" in page
    assert "cannot be undone" in page
    assert not CapacityPurchase.objects.exists()
    staff.post(address, {"total": "1.00"})
    assert not CapacityPurchase.objects.exists()
    staff.post(address, {"total": str(choice.total)})
    staff.post(address, {"total": str(choice.total)})
    purchases.settle_due(now=NOW)
    assert len(market.sold) == 1
    assert "Commitment" in staff.get(url("capacityinquiry_change", choice.inquiry_id)).content.decode()
    assert staff.get(url("capacitypurchase_changelist")).status_code == 200


def test_who_may_not_buy_cannot(buyer, market):
    ask(buyer)
    inquiries.answer_due(now=NOW)
    looking = make_user(is_staff=True)
    looking.user_permissions.add(Permission.objects.get(codename="view_capacityinquiry"))
    client = Client()
    client.force_login(looking)
    offering = CapacityChoice.objects.get(offering_id="cbo-1")
    listed = CapacityChoice.objects.get(offering_id="")
    assert client.get(url("capacityinquiry_demand")).status_code == 200
    page = client.get(url("capacityinquiry_change", offering.inquiry_id)).content.decode()
    assert url("capacitychoice_buy", offering.pk) not in page
    assert (
        client.post(url("capacitychoice_buy", offering.pk), {"total": str(offering.total)}).status_code == 403
    )
    assert client.post(url("capacitychoice_commit", listed.pk), {}).status_code == 403
    assert client.get(url("capacityinquiry_add")).status_code == 403
    assert not CapacityPurchase.objects.exists()
