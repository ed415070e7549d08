"""Land a provider's bill and reconcile it."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.translation import gettext as _

from billing.ledger import parse_month
from billing.models import BillLine, Finding
from billing.vendor import landing, matching
from inventory.models import ProviderAccount
from portal.common.errors import DomainError
from portal.common.money import format_money

DESCRIPTION = """\
Store a provider's bill, put every line in its class and report what differs.

  manage.py import_bill "AWS main" november.csv
  manage.py import_bill 123456789012 november.csv --month 2026-11 --header-total 44167.51

ACCOUNT is the provider account's name, its id at the provider, or its number here.
FILE.csv is a bill as FOCUS 1.0, 1.1 or 1.2 CSV in UTF-8, for example the export of AWS,
Azure or OCI. Columns of later versions and a provider's own are tolerated. Times
without a zone are UTC.

The same file again changes nothing. Another file for the same account and month is a
restated bill: it replaces the one before, and findings re-open only where it differs.

When a line is wrong, every wrong line is named with its number, nothing is stored, and
the command ends with status 1.
"""


class Command(BaseCommand):
    """Parse, call the domain, print what came of it."""

    help = DESCRIPTION

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument("account", metavar="ACCOUNT")
        parser.add_argument("file", metavar="FILE.csv", type=Path)
        parser.add_argument(
            "--month", metavar="YYYY-MM", help="the billing month; the first row's when left out"
        )
        parser.add_argument(
            "--header-total",
            metavar="AMOUNT",
            help="what the invoice states in all; the lines must add up to it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            account = _account(options["account"])
            month = parse_month(options["month"]) if options["month"] else None
            header_total = _amount(options["header_total"])
            with options["file"].open("rb") as file:
                bill = landing.land(
                    account_id=account.pk,
                    month=month,
                    file=file,
                    file_name=options["file"].name,
                    actor=None,
                    now=now,
                    header_total=header_total,
                )
            if bill.already_landed:
                self.stdout.write(
                    _("%(file)s was imported before as %(bill)s (%(state)s); nothing changed.")
                    % {"file": options["file"].name, "bill": bill, "state": bill.get_state_display()}
                )
                if bill.state != bill.State.LANDED:
                    return
            bill = matching.classify(bill_id=bill.pk, now=now)
        except DomainError as error:
            raise CommandError(f"{error}\n{_('Nothing was stored.')}") from None
        except OSError as error:
            raise CommandError(
                _("%(file)s cannot be read: %(why)s.") % {"file": options["file"], "why": error.strerror}
            ) from None
        self._report(bill)

    def _report(self, bill: Any) -> None:
        self.stdout.write(
            _("%(bill)s: %(lines)d lines, %(total)s, %(format)s")
            % {
                "bill": bill,
                "lines": bill.line_count,
                "total": format_money(bill.total, bill.currency),
                "format": bill.format,
            }
        )
        labels = dict(BillLine.Class.choices)
        for name, lines, cost in matching.class_totals(bill):
            self.stdout.write(f"  {labels[name]!s:<32}{lines:>10}  {format_money(cost, bill.currency):>18}")
        findings = Finding.objects.filter(
            account=bill.account, month=bill.month, state=Finding.State.OPEN, material=True
        )
        count = findings.count()
        if not count:
            self.stdout.write(_("No open findings: the bill can be approved."))
            return
        self.stdout.write(_("%(count)d open findings to settle before approval:") % {"count": count})
        for finding in findings.order_by("-amount")[:20]:
            self.stdout.write(f"  {finding.uid}  {finding.get_finding_class_display()}: {finding.summary}")
        if count > 20:
            self.stdout.write(_("  … and %(count)d more, in the admin.") % {"count": count - 20})


def _account(text: str) -> ProviderAccount:
    found = list(ProviderAccount.objects.filter(name=text)) or list(
        ProviderAccount.objects.filter(account_id=text).exclude(account_id="")
    )
    if not found and text.isdigit():
        found = list(ProviderAccount.objects.filter(pk=int(text[:18])))
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"“{name}”" for name in ProviderAccount.objects.values_list("name", flat=True)[:20])
    raise CommandError(
        _("“%(text)s” names %(count)d provider accounts. Known: %(names)s.")
        % {"text": text, "count": len(found), "names": names or "–"}
    )


def _amount(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise CommandError(
            _("--header-total: “%(text)s” is no amount such as 1234.56.") % {"text": text}
        ) from None
    if not amount.is_finite():
        raise CommandError(_("--header-total: “%(text)s” is no amount such as 1234.56.") % {"text": text})
    return amount
