"""The catalog as people use it: with a mouse, with a keyboard, on a phone, and without JavaScript."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from inventory.prices import API
from tests.browser.test_customer_pages import enter, walk
from tests.browser.world import PASSWORD, World, make_world
from tests.factories import H100, make_account
from tests.inventory.test_market import make_offer, polled

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
A100 = "a100-sxm4-40gb"
PAGE = f"/catalog/{H100}/"


@pytest.fixture
def world() -> World:
    """Our own fleet beside four clouds: polled, from cards old and new, sold out, withdrawn, in euros."""
    world = make_world()
    now = timezone.now()

    def ago(days: float) -> object:
        return now - timedelta(days=days)

    account = make_account(provider="lambda")
    polled(account, "lambda/us-east-1", now - timedelta(minutes=4))
    make_offer("31.92", region="lambda/us-east-1", source=API, account=account, availability="available")
    polled(account, "lambda/us-west-1", now - timedelta(days=1))
    make_offer("31.92", region="lambda/us-west-1", source=API, account=account, availability="unavailable")
    make_offer("55.04", seen_at=ago(120), before=(("98.32", ago(600), ago(300)),))
    make_offer(
        "23.60",
        region="nebius/eu-north1",
        seen_at=ago(20),
        before=(("28.00", ago(200), ago(90)), ("25.00", ago(90), ago(20))),
    )
    make_offer("10.00", region="nebius/eu-north1", purchase="spot", seen_at=ago(20))
    make_offer("22.00", region="scaleway/fr-par", currency="EUR", seen_at=ago(3))
    make_offer("8.00", region="lambda/us-east-1", gpu_model=A100, seen_at=ago(3))
    for number in range(4):
        make_offer("40.00", region=f"azure/region-{number}", seen_at=ago(3))
    return world


def test_the_pages_are_accessible_in_both_themes_and_widths(live_server, page, client, problems, world):
    enter(page, live_server, client, world.owner)
    paths = {
        "list": "/catalog/",
        "nothing": "/catalog/?q=voodoo",
        "model": f"{PAGE}?purchase=any&range=all",
        "no offer": f"{PAGE}?cloud=nebius&region=region-1",
    }
    assert list(walk(page, live_server.url, paths, problems)) == []


def test_a_filter_changes_the_list_and_the_address_without_loading_the_page(
    live_server, page, client, problems, world
):
    enter(page, live_server, client, world.owner)
    page.goto(f"{live_server.url}/catalog/")
    page.evaluate("window.same = true")
    models = page.locator("#models tbody tr")
    expect(models).to_have_count(2)
    page.get_by_label("Purchase").select_option("spot")
    expect(models).to_have_count(1)
    assert "purchase=spot" in page.url
    page.get_by_label("Purchase").select_option("")
    expect(models).to_have_count(2)
    page.get_by_label("Search").type("a100")
    expect(models).to_have_count(1)
    expect(models).to_contain_text("A100 SXM 40 GB")
    assert page.evaluate("window.same") is True
    page.reload()  # the address says it all
    expect(models).to_have_count(1)
    expect(page.get_by_label("Search")).to_have_value("a100")
    page.go_back()
    assert problems == []


def test_from_the_catalog_to_a_search_that_finds_something(live_server, page, client, problems, world):
    enter(page, live_server, client, world.owner)
    page.goto(f"{live_server.url}/catalog/")
    page.get_by_role("link", name="H100 SXM 80 GB", exact=True).click()
    expect(page.get_by_role("heading", name="H100 SXM 80 GB", level=1)).to_be_visible()
    page.get_by_role("link", name="Reserve", exact=True).and_(page.locator(".sb-button--primary")).click()
    expect(page.get_by_role("heading", name="What fits")).to_be_visible()
    assert problems == []


def test_the_chart_reads_its_prices_by_keyboard_and_takes_what_one_chooses(
    live_server, page, client, problems, world
):
    enter(page, live_server, client, world.owner)
    page.goto(f"{live_server.url}{PAGE}?range=all")
    plot = page.get_by_role("application")
    plot.focus()
    page.keyboard.press("Home")
    tip = page.locator(".sb-chart__tip")
    expect(tip).to_contain_text("AWS $12.29")
    page.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("AWS –")  # the price of then ended, and the next is not known yet
    page.keyboard.press("End")
    expect(tip).to_contain_text("AWS $6.88")
    page.get_by_role("link", name="Show in the chart: AZURE region-1 ").click()
    expect(page.get_by_text("the offers that you chose")).to_be_visible()
    expect(page.locator(".sb-market__charted")).to_contain_text("region-1")
    # Another duration changes our price everywhere on the page, and leaves the chart as it is.
    page.evaluate("window.same = true")
    page.get_by_label("Our price for").focus()
    page.get_by_label("Our price for").select_option(label="30 days")
    expect(page.get_by_text("Your price for one node and 30 days, before tax.")).to_be_visible()
    expect(page.locator(".sb-kpi").nth(3)).to_contain_text("for 30 days")
    expect(page.get_by_label("Our price for")).to_be_focused()
    expect(page.get_by_text("the offers that you chose")).to_be_visible()
    assert page.evaluate("window.same") is True
    page.get_by_role("link", name="Show each cloud’s cheapest instead").click()
    expect(page.locator(".sb-market__charted")).not_to_contain_text("region-1,")
    assert problems == []


def test_everything_works_without_javascript(live_server, browser: Browser, world):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page: Page = context.new_page()
    page.goto(f"{live_server.url}/accounts/login/?next=/catalog/")
    page.get_by_label("Email").fill("ada@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_label("Vendor").select_option("nvidia")
    page.get_by_label("Order").select_option("name")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#models tbody tr")).to_have_count(2)
    page.get_by_role("link", name="H100 SXM 80 GB", exact=True).click()
    expect(page.get_by_role("link", name="1 year")).to_be_visible()
    page.get_by_role("link", name="All", exact=True).click()
    assert "range=all" in page.url
    page.get_by_text("Show as a table").click()
    expect(page.get_by_role("cell", name="$12.29")).to_be_visible()
    page.get_by_label("Cloud").select_option("aws")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#offers tbody tr")).to_have_count(1)
    assert "range=all" in page.url
    context.close()
