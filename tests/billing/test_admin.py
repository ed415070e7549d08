"""Staff pages of money: they open, act through the product's functions, and cannot edit the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.sites import site
from django.test import Client
from django.urls import reverse
from django.utils import timezone

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
from leases.models import Lease
from portal.accounts.models import Event, User
from portal.common.periods import period
from tests.billing.helpers import account_of, deliver, make_booking, make_customer, make_rule
from tests.factories import make_fleet, make_gpu_model, make_instance_type, make_user

pytestmark = pytest.mark.django_db

MONEY = [
    BillingAccount,
    FundsHold,
    Payment,
    Charge,
    Entry,
    LedgerAccount,
    AccountingPeriod,
    Seller,
    PriceRule,
    Quote,
    Invoice,
]


@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("staff@example.com")


@pytest.fixture
def client(staff) -> Client:
    client = Client()
    client.force_login(staff)
    return client


@pytest.fixture
def last_month() -> datetime:
    month = ledger.last_month(timezone.now())
    return datetime(month.year, month.month, 10, tzinfo=UTC)


@pytest.fixture
def invoice(last_month) -> Invoice:
    """An open invoice of last month, with everything that leads to it."""
    now = last_month - timedelta(days=1)
    make_fleet(nodes=2, available=period(now - timedelta(days=30), now + timedelta(days=400)))
    make_rule(since=now - timedelta(days=400))
    customer = make_customer(mode="postpaid", credit="5000", name="Wolke AG")
    lease = make_booking(customer, now=now, start=last_month, hours=10)
    deliver(lease, last_month, last_month + timedelta(hours=10))
    metering.meter_due(now=last_month + timedelta(days=1))
    draft = invoicing.draft_month(month=last_month.date(), now=timezone.now())[0]
    return invoicing.finalize(invoice_uid=draft.uid, actor=None, now=timezone.now())


def page(model, name: str, *args) -> str:
    return reverse(f"admin:billing_{model._meta.model_name}_{name}", args=args)


def said(response) -> str:
    return " ".join(str(message) for message in response.context["messages"])


def test_every_list_and_row_opens(client, invoice):
    invoicing.record_payment(
        invoice_uid=invoice.uid, amount=Decimal(1), reference="r", actor=None, now=timezone.now()
    )
    for model in MONEY:
        assert model in site._registry, model
        listing = client.get(page(model, "changelist"))
        assert listing.status_code == 200, model
        assert client.get(page(model, "changelist"), {"q": "a"}).status_code == 200, model
        rows = list(model.objects.all()[:2])
        assert rows, model
        for row in rows:
            assert client.get(page(model, "change", row.pk)).status_code == 200, model


@pytest.mark.parametrize(
    "model", [Entry, LedgerAccount, Charge, FundsHold, Payment, Invoice, Quote, AccountingPeriod]
)
def test_what_the_product_writes_cannot_be_edited(client, invoice, model):
    invoicing.record_payment(
        invoice_uid=invoice.uid, amount=Decimal(1), reference="r", actor=None, now=timezone.now()
    )
    row = model.objects.all()[0]
    before = list(model.objects.values())
    assert client.get(page(model, "add")).status_code == 403
    assert client.post(page(model, "change", row.pk), {"amount": "1", "state": "paid"}).status_code == 403
    assert client.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert list(model.objects.values()) == before


def test_staff_top_up_a_wallet_once_per_reference(client):
    customer = make_customer(funds="10")
    account = account_of(customer)
    url = page(BillingAccount, "top_up", account.pk)
    assert client.get(url).status_code == 200
    response = client.post(url, {"amount": "90.50", "reference": "wire 1"}, follow=True)
    assert "$100.50" in said(response)
    client.post(url, {"amount": "90.50", "reference": "wire 1"})
    assert account_of(customer).balance == Decimal("100.50")
    refused = client.post(url, {"amount": "91", "reference": "wire 1"})
    assert refused.status_code == 400 and "already booked" in refused.content.decode()
    for wrong in ({"amount": "-5"}, {"amount": "NaN"}, {"amount": "0.001"}, {"amount": "x"}):
        assert client.post(url, {"reference": "wire 2", **wrong}).status_code == 400
    refused = client.post(url, {"amount": "0", "reference": "wire 2"})
    assert refused.status_code == 400 and "Write an amount above zero." in refused.content.decode()
    assert account_of(customer).balance == Decimal("100.50")


def test_terms_are_changed_with_an_event(client, staff):
    customer = make_customer(funds="10")
    account = account_of(customer)
    response = client.post(
        page(BillingAccount, "change", account.pk),
        {"mode": "postpaid", "credit_limit": "5000", "payment_days": "30"},
    )
    assert response.status_code == 302
    account = account_of(customer)
    assert (account.mode, account.credit_limit, account.payment_days) == ("postpaid", 5000, 30)
    assert account.balance == 10
    event = Event.objects.get(kind="account.terms_changed")
    assert event.actor == staff and event.before["mode"] == "prepaid"
    refused = client.post(
        page(BillingAccount, "change", account.pk),
        {"mode": "postpaid", "credit_limit": "-1", "payment_days": "30"},
    )
    assert refused.status_code == 200 and account_of(customer).credit_limit == 5000


def test_an_account_is_opened_for_a_customer(client):
    from tests.factories import make_organization

    customer = make_organization()
    response = client.post(
        page(BillingAccount, "add"),
        {"organization": customer.pk, "mode": "postpaid", "credit_limit": "100", "payment_days": "7"},
    )
    assert response.status_code == 302 and account_of(customer).credit_limit == 100


def rule_form(**more):
    return {
        "name": "List",
        "kind": "fixed",
        "amount": "2.19",
        "currency": "usd",
        "min_hours": "0",
        "effective_from": "2026-01-01T00:00",
        **more,
    }


def test_price_rules_are_entered(client):
    model = make_gpu_model()
    assert client.post(page(PriceRule, "add"), rule_form(gpu_model=model.pk)).status_code == 302
    rule = PriceRule.objects.get()
    assert (rule.amount, rule.currency, rule.gpu_model, rule.effective.upper) == (
        Decimal("2.19"),
        "USD",
        model,
        None,
    )
    assert client.get(page(PriceRule, "change", rule.pk)).status_code == 200
    assert client.post(page(PriceRule, "change", rule.pk), rule_form(amount="2.5")).status_code == 302
    assert Event.objects.get(kind="price_rule.changed").after["amount"] == "2.5"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"amount": "0"}, "amount"),
        ({"amount": "-1", "kind": "markup"}, "amount"),
        ({"currency": "12"}, "currency"),
        ({"effective_until": "2025-01-01T00:00"}, "effective_until"),
        ({"min_hours": "-1"}, "min_hours"),
        ({"effective_from": "soon"}, "effective_from"),
    ],
)
def test_wrong_price_rules_name_the_field(client, wrong, field):
    response = client.post(page(PriceRule, "add"), rule_form(**wrong))
    assert response.status_code == 200 and field in response.context["adminform"].form.errors
    assert not PriceRule.objects.exists()


def test_scopes_that_contradict_are_refused(client):
    kind, other = make_instance_type(), make_gpu_model(slug="a100-sxm4-80gb")
    response = client.post(page(PriceRule, "add"), rule_form(instance_type=kind.pk, gpu_model=other.pk))
    assert "gpu_model" in response.context["adminform"].form.errors


def test_staff_prepare_a_quote(client, staff):
    now = timezone.now()
    make_fleet(nodes=1, available=period(now - timedelta(days=1), now + timedelta(days=60)))
    customer = make_customer(name="Wolke AG")
    start = (now + timedelta(days=3)).replace(microsecond=0)
    data = {
        "organization": customer.pk,
        "gpu_model": "h100-sxm5-80gb",
        "gpus_per_node": "8",
        "nodes": "1",
        "start": f"{start:%Y-%m-%dT%H:%M}",
        "end": f"{start + timedelta(days=1):%Y-%m-%dT%H:%M}",
        "rate_override": "1.75",
        "purchase_order": "PO-1",
        "valid_hours": "48",
    }
    url = page(Quote, "prepare")
    assert client.get(url).status_code == 200
    assert "prepare" in client.get(page(Quote, "changelist")).content.decode()
    refused = client.post(url, data)
    assert refused.status_code == 400 and "override_reason" in refused.context["form"].errors
    assert not Lease.objects.exists()
    response = client.post(url, {**data, "override_reason": "Pilot"}, follow=True)
    quote = Quote.objects.get()
    assert quote.uid in said(response) and quote.prepared_by == staff
    assert quote.total == Decimal("1.75") * 8 * 24
    assert quote.expires_at - now > timedelta(hours=47)
    refused = client.post(url, {**data, "override_reason": "Pilot"})
    assert refused.status_code == 400 and "not enough free capacity" in refused.content.decode()


def test_a_month_is_drafted_finalized_paid_and_voided(client, invoice, last_month):
    url = page(Invoice, "payment", invoice.pk)
    assert 'value="160"' in client.get(url).content.decode()
    now = timezone.now() - timedelta(minutes=1)
    form = {
        "amount": "160",
        "reference": "wire",
        "received_at": f"{now:%Y-%m-%dT%H:%M}",
    }
    assert client.post(url, {**form, "amount": "161"}).status_code == 400
    client.post(url, form)
    invoice.refresh_from_db()
    assert invoice.state == "paid"
    payment = Payment.objects.get()
    client.post(page(Payment, "undo", payment.pk), {"reason": "Bounced"})
    invoice.refresh_from_db()
    assert invoice.state == "open"
    assert "Undone" in client.get(page(Payment, "changelist")).content.decode()

    url = page(Invoice, "void", invoice.pk)
    assert client.post(url, {"reason": ""}).status_code == 400
    client.post(url, {"reason": "Wrong buyer"})
    invoice.refresh_from_db()
    assert (invoice.state, invoice.void_reason) == ("void", "Wrong buyer")

    url = page(Invoice, "draft")
    for month in ("soon", f"{timezone.now():%Y-%m}", "2026-13"):
        assert client.post(url, {"month": month}).status_code == 400
    client.post(url, {"month": f"{last_month:%Y-%m}"})
    again = Invoice.objects.get(state="draft")
    response = client.post(
        page(Invoice, "changelist"), {"action": "finalize", "_selected_action": [again.pk]}, follow=True
    )
    assert "INV-000002" in said(response)


@pytest.mark.parametrize("state", ["draft", "open", "void"])
def test_the_pdf_opens_in_every_state(client, invoice, state):
    if state != "open":
        invoicing.void(invoice_uid=invoice.uid, reason="Wrong", actor=None, now=timezone.now())
    if state == "draft":
        invoice = invoicing.draft_month(month=invoice.month, now=timezone.now())[0]
    response = client.get(page(Invoice, "pdf", invoice.pk))
    assert response.status_code == 200 and response.content.startswith(b"%PDF-")
    assert response["Content-Type"] == "application/pdf"


def test_closing_a_period(client, invoice, last_month):
    row = AccountingPeriod.objects.get(month=last_month.date().replace(day=1))
    form = {"action": "close", "_selected_action": [row.pk]}
    assert "is closed" in said(client.post(page(AccountingPeriod, "changelist"), form, follow=True))
    assert "closed already" in said(client.post(page(AccountingPeriod, "changelist"), form, follow=True))


def test_sellers(client):
    form = {
        "name": "Reseller GmbH",
        "address": "Somewhere 1",
        "country": "de",
        "number_prefix": "R-",
        "tax_code": "VAT",
        "tax_rate": "0.19",
    }
    response = client.post(page(Seller, "add"), form)
    assert response.status_code == 302, response.context["adminform"].form.errors
    response = client.post(page(Seller, "add"), {**form, "number_prefix": "S-"})
    assert response.status_code == 302, response.context["adminform"].form.errors
    second = Seller.objects.get(number_prefix="S-")
    for chosen in ([second.pk], [Seller.objects.get(number_prefix="R-").pk], [second.pk]):
        client.post(
            page(Seller, "changelist"), {"action": "make_default", "_selected_action": chosen}, follow=True
        )
        assert [seller.pk for seller in Seller.objects.filter(is_default=True)] == chosen
    assert client.post(page(Seller, "add"), {**form, "tax_rate": "19"}).status_code == 200
    assert client.post(page(Seller, "add"), {**form, "country": "Germany"}).status_code == 200
    assert Seller.objects.count() == 2


def test_only_permitted_staff_act(invoice):
    viewer = make_user(is_staff=True)
    from django.contrib.auth.models import Permission

    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(viewer)
    account = account_of(invoice.organization)
    assert client.get(page(Invoice, "change", invoice.pk)).status_code == 200
    for url in (
        page(BillingAccount, "top_up", account.pk),
        page(Quote, "prepare"),
        page(Invoice, "draft"),
        page(Invoice, "void", invoice.pk),
        page(Invoice, "payment", invoice.pk),
    ):
        assert client.get(url).status_code == 403, url
        assert client.post(url, {"reason": "because"}).status_code == 403, url
    outsider = Client()
    outsider.force_login(make_user())
    assert outsider.get(page(Invoice, "pdf", invoice.pk)).status_code in (302, 403)
