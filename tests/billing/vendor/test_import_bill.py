"""``manage.py import_bill``."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from billing.models import VendorBill
from inventory.models import ProviderAccount
from tests.billing.vendor.fleet import at, csv_file, hours, make_run, row
from tests.factories import make_account, make_fleet

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("import_bill", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def account() -> ProviderAccount:
    fleet = make_fleet(
        account=make_account(name="AWS main", account_id="123456789012"), nodes=1, payment="hourly"
    )
    make_run(node=fleet.nodes[0], start=at(2), end=at(2, 10), provider_id="i-1")
    return fleet.account


@pytest.mark.parametrize("name", ["AWS main", "123456789012"])
def test_a_bill_is_stored_classified_and_reported(
    account: ProviderAccount, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "november.csv"
    path.write_bytes(csv_file(hours(at(2), at(2, 12), ResourceId="i-1")).getvalue())
    out = run(name, str(path), "--header-total", "192.00")
    bill = VendorBill.objects.get()
    assert (bill.account, f"{bill.month:%Y-%m}", bill.state) == (account, "2026-11", "classified")
    assert "AWS main 2026-11 #1: 12 lines, $192.00, FOCUS 1.2" in out
    assert "Billed after the lease ended" in out
    assert "1 open findings" in out
    assert "nothing changed" in run(name, str(path))
    assert VendorBill.objects.count() == 1


def test_bad_lines_are_named_and_nothing_is_stored(account: ProviderAccount, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    rows = [row(), row(BilledCost="NaN"), row(), row(ChargePeriodStart="soon")]
    path.write_bytes(csv_file(rows).getvalue())
    with pytest.raises(CommandError) as refused:
        run("AWS main", str(path))
    assert str(refused.value).splitlines() == [
        "Line 3, BilledCost: “NaN” is no number such as 1234.56.",
        "Line 5, ChargePeriodStart: “soon” is no time; write 2026-11-01T00:00:00Z.",
        "Nothing was stored.",
    ]
    assert refused.value.returncode == 1
    assert not VendorBill.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Nobody", "{file}"), "“Nobody” names 0 provider accounts. Known: “AWS main”"),
        (("AWS main", "{file}", "--month", "November"), "YYYY-MM"),
        (("AWS main", "{file}", "--header-total", "NaN"), "no amount"),
        (("AWS main", "{file}.missing"), "cannot be read"),
    ],
)
def test_what_is_wrong_with_the_call_is_said(
    account: ProviderAccount, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    path = tmp_path / "bill.csv"
    path.write_bytes(csv_file([row()]).getvalue())
    with pytest.raises(CommandError, match=says):
        run(*(argument.replace("{file}", str(path)) for argument in arguments))
    assert not VendorBill.objects.exists()
