"""Staff look at money, prepare a quote and book a payment, in a real browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from billing import invoicing, ledger, metering
from billing.models import (
    AccountingPeriod,
    BillingAccount,
    Charge,
    Entry,
    FundsHold,
    Invoice,
    LedgerAccount,
    Payment,
    PriceRule,
    Quote,
    Seller,
)
from portal.accounts.models import User
from portal.common.periods import period
from tests.billing.helpers import deliver, make_booking, make_customer, make_rule
from tests.browser.accessibility import violations
from tests.factories import make_fleet

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(client, context, live_server) -> User:
    user = User.objects.create_superuser("staff@example.com", "sublet-test-password")
    client.force_login(user)
    session = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
    return user


@pytest.fixture
def invoice() -> Invoice:
    """An open invoice of last month, partly paid."""
    month = ledger.month_start(ledger.last_month(timezone.now()))
    now, start = month, datetime(month.year, month.month, 10, tzinfo=UTC)
    make_fleet(nodes=2, available=period(now - timedelta(days=30), now + timedelta(days=400)))
    make_rule(since=now - timedelta(days=400))
    customer = make_customer(mode="postpaid", credit="5000", funds="20", name="Wolke AG")
    deliver(make_booking(customer, now=now, start=start, hours=10), start, start + timedelta(hours=10))
    metering.meter_due(now=start + timedelta(days=1))
    draft = invoicing.draft_month(month=month.date(), now=timezone.now())[0]
    invoice = invoicing.finalize(invoice_uid=draft.uid, actor=None, now=timezone.now())
    invoicing.record_payment(
        invoice_uid=invoice.uid, amount=Decimal(60), reference="wire 1", actor=None, now=timezone.now()
    )
    return invoice


def address(model: type, name: str, *args: object) -> str:
    return reverse(f"admin:billing_{model._meta.model_name}_{name}", args=args)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_money_pages_are_accessible_and_break_no_policy(
    live_server, page, problems, staff, invoice, width, scheme
):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    account = BillingAccount.objects.get()
    paths = [
        address(PriceRule, "add"),
        address(Quote, "prepare"),
        address(BillingAccount, "top_up", account.pk),
        address(Invoice, "draft"),
        address(Invoice, "payment", invoice.pk),
        address(Invoice, "void", invoice.pk),
        address(Payment, "undo", Payment.objects.get(method="bank").pk),
    ]
    for model in (
        AccountingPeriod,
        BillingAccount,
        Charge,
        Entry,
        FundsHold,
        Invoice,
        LedgerAccount,
        Payment,
        PriceRule,
        Quote,
        Seller,
    ):
        paths += [address(model, "changelist"), address(model, "change", model.objects.all()[0].pk)]
    found = {}
    for path in paths:
        page.goto(live_server.url + path)
        assert page.locator("h1").first.is_visible()
        wrong = violations(page)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wrong.append("wider than the window")
        if wrong:
            found[path] = wrong
    assert found == {}
    assert problems == []


def test_a_payment_is_booked_and_the_invoice_downloaded(live_server, page, problems, staff, invoice):
    page.goto(live_server.url + address(Invoice, "change", invoice.pk))
    page.get_by_role("link", name="Record a payment").click()
    assert page.get_by_label("Amount").input_value() == "100"
    page.get_by_label("Reference").fill("wire 2")
    page.get_by_role("button", name="Book it").click()
    expect(page.get_by_text("$100.00 booked.")).to_be_visible()
    invoice.refresh_from_db()
    assert invoice.state == "paid"
    with page.expect_download() as download:
        page.get_by_role("link", name="PDF").click()
    assert download.value.suggested_filename == f"{invoice.number}.pdf"
    assert problems == []


def test_a_quote_is_prepared(live_server, page, problems, staff, invoice):
    start = (timezone.now() + timedelta(days=5)).replace(second=0, microsecond=0)
    page.goto(live_server.url + address(Quote, "changelist"))
    page.get_by_role("link", name="Prepare a quote").click()
    page.get_by_label("Customer").select_option(label="Wolke AG")
    page.get_by_label("GPU model").select_option("h100-sxm5-80gb")
    page.get_by_label("Start").fill(f"{start:%Y-%m-%dT%H:%M}")
    page.get_by_label("End").fill(f"{start + timedelta(days=1):%Y-%m-%dT%H:%M}")
    page.get_by_label("Rate per GPU-hour").fill("1.5")
    page.get_by_role("button", name="Hold the capacity").click()
    expect(page.get_by_text("Say why the rate differs from the price list.")).to_be_visible()
    assert all("400" in problem for problem in problems)  # the refusal, which the browser notes too
    problems.clear()
    page.get_by_label("Reason for the rate").fill("Pilot")
    page.get_by_role("button", name="Hold the capacity").click()
    expect(page.get_by_text("An authorised member accepts it.")).to_be_visible()
    assert Quote.objects.order_by("-pk")[0].total == Decimal("288")
    assert problems == []
