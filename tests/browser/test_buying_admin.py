"""Staff look where demand exceeds what is held, ask the clouds, and buy: in a real browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from inventory.models import Commitment
from leases.buying import inquiries, purchases
from leases.models import CapacityPurchase, UnmetSearch
from portal.accounts.models import User
from tests.browser.accessibility import violations
from tests.factories import make_fleet, make_instance_type, make_region
from tests.leases.buying.conftest import account, market, offer  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("account", "offer"),
]
SOON = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=2)


@pytest.fixture
def staff(client, context, live_server) -> User:
    user = User.objects.create_superuser("staff@example.com", "sublet-test-password")
    client.force_login(user)
    session = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    return user


@pytest.fixture(autouse=True)
def _wish() -> None:
    make_fleet(nodes=2)
    UnmetSearch.objects.create(
        gpu_model=make_instance_type().gpu_model,
        gpus_per_node=8,
        nodes=4,
        region=make_region(),
        hours=72,
        earliest=SOON,
        latest=SOON + timedelta(days=20),
        searched_on=datetime.now(UTC).date(),
        last_at=datetime.now(UTC),
    )


def test_demand_leads_to_a_reservation_that_is_bought_once(live_server, page, problems, staff, market):  # noqa: F811
    page.goto(live_server.url + reverse("admin:index"))
    page.get_by_role("link", name="Demand", exact=True).click()
    expect(page.get_by_text("32 GPUs")).to_be_visible()
    page.get_by_role("link", name="Ask the clouds").first.click()
    expect(page.locator("input[name=gpus]")).to_have_value("32")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("are being asked")).to_be_visible()

    inquiries.answer_due(now=datetime.now(UTC))
    # The page asks itself anew.
    expect(page.get_by_text("$90,000.00").first).to_be_visible(timeout=10_000)
    page.get_by_role("link", name="Buy").click()
    expect(page.get_by_text("cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Buy it").click()
    expect(page.get_by_text("It is being bought")).to_be_visible()

    purchases.settle_due(now=datetime.now(UTC))
    expect(page.get_by_role("link", name="Commitment", exact=True)).to_be_visible(timeout=10_000)
    assert CapacityPurchase.objects.get().state == CapacityPurchase.State.BOUGHT
    assert len(market.sold) == Commitment.objects.exclude(reservation_id="").count() == 1
    assert problems == []


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_buying_pages_are_accessible_and_break_no_policy(
    live_server,
    page,
    problems,
    staff,
    market,  # noqa: F811
    width,
    scheme,
):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    inquiry = inquiries.ask(
        gpu_model="h100-sxm5-80gb",
        gpus=32,
        hours=72,
        start=SOON,
        end=SOON + timedelta(days=20),
        actor=staff,
        now=datetime.now(UTC),
    )
    inquiries.answer_due(now=datetime.now(UTC))
    offering = inquiry.choices.get(offering_id="cbo-1")
    listed = inquiry.choices.get(offering_id="")
    for name, *args in (
        ("capacityinquiry_demand",),
        ("capacityinquiry_changelist",),
        ("capacityinquiry_add",),
        ("capacityinquiry_change", inquiry.pk),
        ("capacitychoice_buy", offering.pk),
        ("capacitychoice_commit", listed.pk),
        ("unmetsearch_changelist",),
        ("capacitypurchase_changelist",),
    ):
        page.goto(live_server.url + reverse(f"admin:leases_{name}", args=args))
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert violations(page) == [], name
    assert problems == []
