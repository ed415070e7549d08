"""Staff pages of vendor bills: they open, import, settle and approve through the product's functions."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from billing.models import BillLine, Finding, UpstreamAccrual, VendorBill
from billing.vendor import accrual
from inventory.models import ProviderAccount
from portal.accounts.models import Event, User
from portal.local.focus_bill import FOUR_FAULTS
from tests.billing.vendor.fleet import LATER, MONTH, csv_file, hours, reconcile, row
from tests.billing.vendor.test_planted_faults import small_fleet, write_and_reconcile
from tests.factories import make_account, make_user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _after_the_month(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: LATER)


@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("staff@example.com")


@pytest.fixture
def client(staff: User) -> Client:
    client = Client()
    client.force_login(staff)
    return client


@pytest.fixture
def bill() -> VendorBill:
    account = small_fleet()
    _written, bill_id = write_and_reconcile(account, faults=FOUR_FAULTS)
    accrual.accrue_month(month=MONTH, now=LATER)
    return VendorBill.objects.get(pk=bill_id)


def page(name: str, *args: object) -> str:
    return reverse(f"admin:billing_{name}", args=args)


def upload(client: Client, account: ProviderAccount, content: bytes, **fields: str) -> tuple[int, str]:
    file = SimpleUploadedFile("bill.csv", content)
    response = client.post(
        page("vendorbill_import"), {"account": str(account.pk), "file": file, **fields}, follow=True
    )
    return response.status_code, response.content.decode()


@pytest.mark.parametrize("model", [VendorBill, BillLine, Finding, UpstreamAccrual])
def test_lists_and_rows_open_and_nothing_can_be_typed_over(
    client: Client, bill: VendorBill, model: type[VendorBill]
) -> None:
    base = f"{model._meta.app_label}_{model._meta.model_name}"
    assert client.get(reverse(f"admin:{base}_changelist")).status_code == 200
    for pk in model.objects.order_by("pk").values_list("pk", flat=True)[:3]:
        html = client.get(reverse(f"admin:{base}_change", args=[pk])).content.decode()
        assert 'name="_save"' not in html
        assert "style=" not in html  # the policy allows no inline style
    assert client.get(reverse(f"admin:{base}_add")).status_code == 403
    assert client.post(reverse(f"admin:{base}_delete", args=[pk]), {"post": "yes"}).status_code == 403


def test_a_bill_shows_its_classes_as_a_table_and_a_bar(client: Client, bill: VendorBill) -> None:
    html = client.get(page("vendorbill_change", bill.pk)).content.decode()
    for text in ("Matched", "Commitment not used", "Billed twice", "Not the contract price"):
        assert text in html
    assert 'aria-label="Explained ' in html
    assert "line_class__exact=duplicate" in html
    lines = client.get(
        page("billline_changelist"), {"bill__id__exact": bill.pk, "line_class__exact": "duplicate"}
    )
    assert lines.context["cl"].result_count == 1
    assert page("vendorbill_import") in client.get(page("vendorbill_changelist")).content.decode()


def test_a_line_shows_the_row_as_it_came_and_the_arithmetic(client: Client, bill: VendorBill) -> None:
    line = BillLine.objects.filter(line_class="price_variance").first()
    assert line is not None
    html = client.get(page("billline_change", line.pk)).content.decode()
    assert "ChargeDescription" in html
    assert "by quantity" in html
    assert "h at $" in html


def test_a_file_is_imported_and_reconciled(client: Client, staff: User) -> None:
    account = make_account(name="Cloud")
    content = csv_file([row(ResourceId="i-x"), row(ResourceId="vol", ServiceCategory="Storage")]).getvalue()
    status, html = upload(client, account, content, header_total="32.00", month="2026-11")
    assert (status, "2 lines were imported and reconciled" in html) == (200, True)
    bill = VendorBill.objects.get()
    assert (bill.account, bill.landed_by, bill.header_total) == (account, staff, Decimal(32))
    assert "Machine nobody leased" in html
    _status, html = upload(client, account, content)
    assert "nothing changed" in html
    assert VendorBill.objects.count() == 1


@pytest.mark.parametrize(
    ("content", "fields", "says"),
    [
        (csv_file([row(), row(BilledCost="NaN")]).getvalue(), {}, "Line 3, BilledCost: “NaN” is no number"),
        (b"", {}, "The file is empty"),
        (b"a,b\n1,2\n", {}, "Line 1, BilledCost: The column is missing"),
        (csv_file([row()]).getvalue(), {"month": "November"}, "YYYY-MM"),
        (csv_file([row()]).getvalue(), {"header_total": "many"}, "Enter a number"),
    ],
)
def test_a_bad_import_says_why_and_stores_nothing(
    client: Client, content: bytes, fields: dict[str, str], says: str
) -> None:
    status, html = upload(client, make_account(), content, **fields)
    assert status == 400
    assert says in html
    assert not VendorBill.objects.exists()


def test_a_finding_is_settled_on_its_page(client: Client, staff: User, bill: VendorBill) -> None:
    finding = Finding.objects.filter(finding_class="duplicate").get()
    assert client.get(page("finding_settle", finding.pk)).status_code == 200
    refused = client.post(page("finding_settle", finding.pk), {"decision": "accept", "note": ""})
    assert refused.status_code == 400
    client.post(page("finding_settle", finding.pk), {"decision": "dispute", "note": "ticket 9"})
    finding.refresh_from_db()
    assert (finding.state, finding.settled_by) == ("disputed", staff)
    assert "ticket 9" in finding.note


def test_many_findings_are_settled_at_once_and_the_bill_approved(
    client: Client, staff: User, bill: VendorBill
) -> None:
    refused = client.post(page("vendorbill_approve", bill.pk))
    assert refused.status_code == 400
    assert "4 findings are open" in refused.content.decode()
    chosen = [str(pk) for pk in Finding.objects.values_list("pk", flat=True)]
    asked = client.post(page("finding_changelist"), {"action": "settle", "_selected_action": chosen})
    assert asked.status_code == 302
    url = asked.headers["Location"]
    assert "Settle 4 findings" in client.get(url).content.decode()
    client.post(url, {"decision": "accept", "note": "November is closed"})
    assert set(Finding.objects.values_list("state", flat=True)) == {"accepted"}
    assert client.post(page("vendorbill_approve", bill.pk)).status_code == 302
    bill.refresh_from_db()
    assert (bill.state, bill.approved_by) == ("approved", staff)
    clearing = client.get(page("vendorbill_clearing")).content.decode()
    assert bill.account.name in clearing
    again = client.post(page("vendorbill_reconcile", bill.pk))
    assert again.status_code == 400  # approved: its classes stay


def test_a_bill_is_reconciled_again(client: Client, bill: VendorBill) -> None:
    assert client.get(page("vendorbill_reconcile", bill.pk)).status_code == 200
    assert client.post(page("vendorbill_reconcile", bill.pk)).status_code == 302
    assert Event.objects.filter(kind="vendor_bill.classified").count() == 1  # nothing was different


def test_staff_without_the_permission_look_and_do_not_act(bill: VendorBill) -> None:
    person = make_user(is_staff=True)
    codes = ["view_vendorbill", "view_finding", "view_billline"]
    person.user_permissions.set(Permission.objects.filter(codename__in=codes))
    client = Client()
    client.force_login(person)
    assert client.get(page("vendorbill_change", bill.pk)).status_code == 200
    finding = Finding.objects.first()
    assert finding is not None
    for url in (
        page("vendorbill_import"),
        page("vendorbill_approve", bill.pk),
        page("vendorbill_reconcile", bill.pk),
        page("finding_settle", finding.pk),
        page("finding_settle_all") + f"?pk={finding.pk}",
    ):
        assert client.post(url, {"decision": "accept", "note": "x"}).status_code == 403
    bill.refresh_from_db()
    assert bill.state == "classified"
    assert not Finding.objects.exclude(state="open").exists()


def test_empty_lists_say_what_to_do(client: Client) -> None:
    assert client.get(page("vendorbill_changelist")).status_code == 200
    assert "Nothing is accrued yet" in client.get(page("vendorbill_clearing")).content.decode()


def test_the_largest_upload_is_streamed_from_disk(client: Client) -> None:
    account = make_account()
    rows = hours(LATER.replace(month=11, day=1), LATER.replace(month=11, day=30), ResourceId="i-" + "x" * 200)
    content = csv_file(rows * 5).getvalue()
    assert len(content) > 2.5 * 2**20 / 2
    status, _html = upload(client, account, content + io.BytesIO(content).getvalue().split(b"\n", 1)[1])
    assert status == 200
    assert BillLine.objects.count() == len(rows) * 10


def test_the_sweep_classifies_what_only_landed() -> None:
    from billing.tasks import accrue_upstream, reconcile_bills
    from tests.billing.vendor.fleet import land

    bill = land(make_account(), [row(ResourceId="i-x")])
    reconcile_bills()
    bill.refresh_from_db()
    assert bill.state == "classified"
    reconcile_bills()
    accrue_upstream()
    reconcile(bill.account, [row(ResourceId="i-y")])
