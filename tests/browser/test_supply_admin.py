"""Staff enter a commitment, record its delivery and look at supply, in a real browser."""

from __future__ import annotations

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from inventory.models import Commitment, GpuSpelling, Node, Offer, PollRun, ProviderAccount
from portal.accounts.models import User
from tests.browser.accessibility import violations
from tests.inventory.conftest import NOW, make_account, supply  # noqa: F401 - a fixture
from tests.inventory.test_deliveries import deliver, make_commitment

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("supply")]


@pytest.fixture
def staff(client, context, live_server) -> User:
    user = User.objects.create_superuser("staff@example.com", "sublet-test-password")
    client.force_login(user)
    session = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    return user


def address(model: type, name: str, *args: object) -> str:
    return reverse(f"admin:inventory_{model._meta.model_name}_{name}", args=args)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_supply_pages_are_accessible_and_break_no_policy(live_server, page, problems, staff, width, scheme):
    commitment = make_commitment()
    nodes = deliver(commitment, 5, NOW)
    run = PollRun.objects.create(
        account=commitment.account,
        region=commitment.zone.region,
        state="partial",
        finished_at=NOW,
        error="p5.48xlarge (on_demand) has no price.",
        unknown_types=["p9.48xlarge: 8 × nvidia X100, 524288 MiB"],
    )
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    for path in (
        address(ProviderAccount, "changelist"),
        address(ProviderAccount, "change", commitment.account_id),
        address(ProviderAccount, "credentials", commitment.account_id),
        address(Commitment, "changelist"),
        address(Commitment, "add"),
        address(Commitment, "change", commitment.pk),
        address(Commitment, "delivery", commitment.pk),
        address(Node, "changelist"),
        address(Node, "change", nodes[0].pk),
        address(Offer, "changelist"),
        address(Offer, "change", Offer.objects.first().pk),
        address(GpuSpelling, "changelist"),
        address(GpuSpelling, "change", GpuSpelling.objects.first().pk),
        address(PollRun, "changelist"),
        address(PollRun, "change", run.pk),
    ):
        page.goto(live_server.url + path)
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert violations(page) == [], path
    assert problems == []


def test_a_delivery_is_recorded_by_hand(live_server, page, problems, staff):
    commitment = make_commitment()
    page.goto(live_server.url + address(Commitment, "change", commitment.pk))
    page.get_by_role("link", name="Record delivery").click()
    page.get_by_label("Nodes").fill("4")
    page.get_by_role("button", name="Add the nodes").click()

    expect(page.get_by_text("4 nodes were added to the fleet.")).to_be_visible()
    assert Node.objects.filter(commitment=commitment).count() == 4
    assert problems == []


def test_credentials_are_typed_and_not_shown_again(live_server, page, problems, staff):
    account = make_account(credentials=None)
    page.goto(live_server.url + address(ProviderAccount, "change", account.pk))
    page.get_by_role("link", name="Enter").click()
    page.get_by_label("Access key ID").fill("AKIATYPED")
    page.get_by_label("Secret access key").fill("typed-secret")
    page.get_by_role("button", name="Store encrypted").click()

    expect(page.get_by_text("were stored, encrypted")).to_be_visible()
    page.get_by_role("link", name="Replace").click()
    expect(page.get_by_label("Access key ID")).to_have_value("")
    assert "typed-secret" not in page.content()
    assert problems == []
