"""The main job in a real browser: from the search to the invoice, on machines of an EC2 server."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import checkout, invoicing, ledger, metering, usage
from billing.drafting import draft_month
from billing.models import FundsHold, Quote
from leases import lifecycle
from leases.models import Allocation, Lease
from leases.provisioning import sweep
from portal.common.money import format_money
from tests.browser.world import PUBLIC_KEY, make_world, sign_in
from tests.factories import make_lease

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def local(moment: datetime) -> str:
    """Return a time as a ``datetime-local`` field takes it (the browser's zone is UTC)."""
    return f"{moment:%Y-%m-%dT%H:%M}"


def search(page: Page, url: str, *, nodes: int = 2, days: int = 1, wide: int = 5) -> None:
    """Fill in the search for ``days`` within ``wide`` days from tomorrow on, and send it."""
    start = (timezone.now() + timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
    page.goto(f"{url}/reserve/")
    page.get_by_label("GPU", exact=True).select_option(label="H100 SXM 80 GB, 8 per node")
    page.get_by_label("Nodes", exact=True).fill(str(nodes))
    page.get_by_label("Earliest start").fill(local(start))
    page.get_by_label("Latest end").fill(local(start + timedelta(days=wide)))
    page.get_by_label("For how long").fill(str(days))
    page.get_by_label("Unit").select_option(label="days")
    page.get_by_role("button", name="Search").click()


def get_quote(page: Page, url: str, **wanted: Any) -> Quote:
    """Search, and take the quote of the first slot."""
    search(page, url, **wanted)
    page.get_by_role("button", name="Get a quote").first.click()
    page.wait_for_url(re.compile(r"/quotes/"))
    return Quote.objects.get(uid=page.url.rstrip("/").rsplit("/", 1)[1])


def accept(page: Page) -> None:
    page.get_by_role("button", name="Accept and reserve").click()
    page.wait_for_url(re.compile(r"/leases/"))


def test_from_the_search_to_the_invoice(live_server, page, problems, moto_ec2, tmp_path):
    url = live_server.url
    make_world(endpoint=moto_ec2)
    sign_in(page, url)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Northwind AI")

    # A key to get in with.
    page.goto(f"{url}/ssh-keys/")
    page.get_by_label("Name", exact=True).fill("laptop")
    page.get_by_label("Public key").fill(PUBLIC_KEY)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("rowheader", name="laptop")).to_be_visible()

    # Search, quote, countdown.
    quote = get_quote(page, url)
    expect(page.get_by_role("heading", level=1)).to_have_text("16 × H100 SXM 80 GB")
    clock = page.locator("count-down [data-part=clock]")
    expect(clock).to_have_text(re.compile(r"^1[0-5]:\d\d$"))
    first = clock.text_content()
    expect(clock).not_to_have_text(str(first))
    expect(page.locator("main")).to_contain_text("$768.00")  # 16 GPUs × 24 h × $2

    # Set up and accept.
    page.get_by_label("Name", exact=True).fill("train-llm-07")
    expect(page.get_by_label("laptop")).to_be_checked()
    page.get_by_label("Networks that reach SSH").fill("203.0.113.0/24\n198.51.100.7")
    accept(page)
    expect(page.get_by_text("train-llm-07 is reserved.")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("train-llm-07")
    lease = Lease.objects.get(name="train-llm-07")
    assert lease.state == Lease.State.SCHEDULED
    assert lease.allowed_addresses == ["203.0.113.0/24", "198.51.100.7/32"]
    assert [key.name for key in lease.ssh_keys.all()] == ["laptop"]
    assert FundsHold.objects.get().lease == quote.lease == lease

    # Its time comes: machines start, and the open page shows how to get in.
    term = lease.terms.get().period
    for minute in (1, 3):
        sweep.run_all(now=term.lower + timedelta(minutes=minute))
    metering.meter_due(now=term.lower + timedelta(hours=3))
    page.reload()
    expect(page.locator(".sb-copy code").first).to_have_text(re.compile(r"^ssh ubuntu@\d+\.\d+\.\d+\.\d+$"))
    expect(page.locator(".sb-copy")).to_have_count(2)
    expect(page.locator("main")).to_contain_text("Charged so far")
    # Delivered at minute 3 and some seconds; 16 GPUs at $2 for 2 h 57 min.
    charged = usage.lease_cost(lease).charged
    assert Decimal("93.5") < charged <= Decimal("94.4")
    expect(page.locator("#lease-cost")).to_contain_text(format_money(charged, "USD"))

    # It ends; the month ends; the invoice comes.
    sweep.run_all(now=term.upper)
    sweep.run_all(now=term.upper + timedelta(minutes=2))
    lease.refresh_from_db()
    assert lease.state == Lease.State.ENDED
    later = ledger.month_start(ledger.next_month(ledger.month_of(term.upper))) + timedelta(days=1)
    metering.meter_due(now=later)
    for month in sorted({ledger.month_of(term.lower), ledger.month_of(term.upper)}):
        draft_month(month=month, now=later)
        invoicing.finalize_month(month=month, actor=None, now=later)

    page.goto(f"{url}/usage/")
    page.goto(f"{url}/invoices/")
    page.locator("main tbody th a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Invoice")
    expect(page.locator("main tbody")).to_contain_text("train-llm-07")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PDF").click()
    target = tmp_path / "invoice.pdf"
    download.value.save_as(target)
    assert Path(target).read_bytes().startswith(b"%PDF-")
    assert download.value.suggested_filename.endswith(".pdf")
    assert problems == []


def test_without_funds_the_nodes_can_be_kept_while_the_person_pays(live_server, page, problems):
    world = make_world(funds="100")
    sign_in(page, live_server.url)
    get_quote(page, live_server.url)
    page.get_by_label("Name", exact=True).fill("eval")
    page.get_by_role("button", name="Accept and reserve").click()
    keep = page.get_by_role("button", name="Keep the nodes while I pay")
    expect(keep).to_be_visible()
    assert Lease.objects.get().state == Lease.State.HELD
    assert not FundsHold.objects.exists()
    # What the person had written is still there.
    expect(page.get_by_label("Name", exact=True)).to_have_value("eval")

    keep.click()
    page.wait_for_url(re.compile(r"/leases/"))
    expect(page.get_by_text("We keep your nodes while we wait for funds")).to_be_visible()
    assert Lease.objects.get().state == Lease.State.AWAITING

    world.top_up("5000", "second transfer")
    checkout.settle_awaiting(now=timezone.now())
    page.reload()
    expect(page.locator("#lease-state")).to_have_text("Scheduled")
    # The 402 is the answer to the first try, as the API gives it.
    assert [problem for problem in problems if "402" not in problem] == []


def test_a_near_miss_is_quoted_as_it_is(live_server, page, problems):
    make_world(nodes=2)
    sign_in(page, live_server.url)
    search(page, live_server.url, nodes=3)
    expect(page.get_by_role("heading", name="Not like that, but nearly")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="Fewer nodes").first
    row.get_by_role("button", name="Get a quote").click()
    page.wait_for_url(re.compile(r"/quotes/"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("16 × H100")
    assert Allocation.objects.count() == 2
    assert problems == []


def test_the_slot_that_somebody_else_took_offers_what_is_left(live_server, page, problems):
    make_world(nodes=2)
    sign_in(page, live_server.url)
    search(page, live_server.url, nodes=2, wide=1)
    expect(page.get_by_role("button", name="Get a quote").first).to_be_visible()
    other = make_world_booking(start=timezone.now() + timedelta(days=1))
    page.get_by_role("button", name="Get a quote").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("No longer free")
    assert Lease.objects.get() == other
    assert [problem for problem in problems if "409" not in problem] == []


def make_world_booking(*, start: datetime) -> Lease:
    """Another customer takes a node for two days."""
    start = start.replace(minute=0, second=0, microsecond=0)
    return make_lease(start=start, hours=48, now=timezone.now(), nodes=1)


def test_cancelling_shows_its_price_first(live_server, page, problems):
    make_world()
    sign_in(page, live_server.url)
    get_quote(page, live_server.url)
    accept(page)
    page.get_by_role("button", name="What does cancelling cost?").click()
    page.wait_for_url(re.compile(r"/cancel/"))
    expect(page.locator("count-down [data-part=clock]")).to_have_text(re.compile(r"^\d+:\d\d"))
    expect(page.locator("main")).to_contain_text("Funds that become free")
    expect(page.locator("main")).to_contain_text("$768.00")
    assert Lease.objects.get().state == Lease.State.SCHEDULED
    page.get_by_role("button", name="Cancel the lease").click()
    expect(page.get_by_text("was cancelled.")).to_be_visible()
    assert Lease.objects.get().state == Lease.State.CANCELLED
    assert not Allocation.objects.exists()
    assert problems == []


def test_a_quote_is_dropped(live_server, page, problems):
    make_world()
    sign_in(page, live_server.url)
    quote = get_quote(page, live_server.url)
    page.get_by_role("button", name="Drop the quote").click()
    expect(page.get_by_text("The quote was dropped")).to_be_visible()
    quote.refresh_from_db()
    assert quote.state != Quote.State.OPEN
    assert not Allocation.objects.exists()
    assert problems == []


def test_an_expired_quote_says_so_and_leads_back_to_the_search(live_server, page, problems):
    make_world()
    sign_in(page, live_server.url)
    quote = get_quote(page, live_server.url)
    past = timezone.now() - timedelta(minutes=1)
    Quote.objects.update(expires_at=past)
    Lease.objects.update(deadline=past)
    # The open page still offers to accept: the answer explains, and nothing was kept.
    page.get_by_role("button", name="Accept and reserve").click()
    expect(page.get_by_text("This quote has expired", exact=True)).to_be_visible()
    lifecycle.lapse_holds(now=timezone.now())
    assert not Allocation.objects.exists()
    assert not FundsHold.objects.exists()
    page.get_by_role("link", name="Search again").click()
    page.wait_for_url(re.compile(r"/reserve/"))
    quote.refresh_from_db()
    assert problems == []
