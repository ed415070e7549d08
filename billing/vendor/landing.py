"""Land a provider's bill: every row kept as it came, all of them or none.

A file is known by its SHA-256: landing it again changes nothing (V2). Another file for
the same account and month is a restated bill: it becomes the next snapshot and the one
before is marked as replaced, its lines untouched. PostgreSQL lets the product write a
landed row's class and nothing else of it (see the migrations).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO

from django.db import connection
from django.utils.translation import gettext as _

from billing.models import VendorBill
from billing.vendor.csv_file import LIMITS, Limits, refuse
from billing.vendor.focus import FocusLine, FocusReader
from billing.vendor.locks import lock_month
from billing.vendor.rows import LINE_COLUMNS, ROW_COLUMNS, copy_line, copy_record
from billing.vendor.units import EXACT
from inventory.models import ProviderAccount
from portal.accounts import events
from portal.accounts.models import User
from portal.common.errors import InvalidInput, NotFound
from portal.common.transactions import durable

CHUNK = 2**20
BATCH = 500  # rows sent at once


def land(
    *,
    account_id: int,
    month: date | None,
    file: BinaryIO,
    file_name: str,
    actor: User | None,
    now: datetime,
    header_total: Decimal | None = None,
    invoice_totals: Mapping[str, Decimal] | None = None,
    limits: Limits = LIMITS,
) -> VendorBill:
    """Store a FOCUS CSV file as the newest bill of an account's month, without its classes.

    ``file`` is binary and can seek. ``month`` is any day of the billing month; ``None``
    takes the billing period of the first row. ``header_total`` is what the provider's
    invoice states in all, in the bill's currency (that of most lines); ``invoice_totals``
    per ``InvoiceId``. Both are compared by :func:`billing.vendor.matching.classify`.

    The same file again returns the bill of the first time, with ``already_landed`` set.
    Raises :class:`NotFound` for an unknown account, :class:`~billing.vendor.csv_file.BadBillFile` (line by line)
    for a file that cannot be used; nothing is stored then.
    """
    account = ProviderAccount.objects.filter(pk=account_id).select_related("provider").first()
    if account is None:
        raise NotFound(_("There is no such provider account."))
    _check_totals(header_total, invoice_totals)
    digest = _sha256(file, limits)
    reader = FocusReader(file, limits=limits)
    month = (month or reader.first_month().date()).replace(day=1)
    with durable():
        lock_month(account_id=account.pk, month=month)
        known = VendorBill.objects.filter(account=account, month=month, sha256=digest).first()
        if known is not None:
            known.already_landed = True
            return known
        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval(pg_get_serial_sequence('billing_vendorbill', 'id'))")
            bill_id = int(cursor.fetchone()[0])
            totals = _copy_lines(cursor, bill_id, _of_account(reader, account))
            records = (copy_record(bill_id, ordinal, text) for ordinal, text in reader.records())
            _copy(cursor, "billing_billrow", ROW_COLUMNS, records)
        previous = VendorBill.objects.filter(account=account, month=month).order_by("-snapshot").first()
        if previous is not None and previous.state != VendorBill.State.REPLACED:
            VendorBill.objects.filter(pk=previous.pk).update(state=VendorBill.State.REPLACED)
        bill = VendorBill.objects.create(
            pk=bill_id,
            account=account,
            month=month,
            snapshot=previous.snapshot + 1 if previous else 1,
            file_name=file_name[-200:],
            sha256=digest,
            columns=reader.header,
            format=reader.version,
            currency=totals.currency,
            invoice_ids={key: f"{value:f}" for key, value in sorted(totals.by_invoice.items())},
            invoice_totals={key: f"{value:f}" for key, value in (invoice_totals or {}).items()},
            line_count=totals.lines,
            total=totals.by_currency[totals.currency],
            header_total=header_total,
            landed_at=now,
            landed_by=actor,
        )
        events.record(
            kind="vendor_bill.landed",
            subject_type="vendor_bill",
            subject_id=bill.uid,
            actor=actor,
            now=now,
            before={"replaces": previous.uid, "state": previous.state} if previous else {},
            after={
                "account": account.name,
                "month": f"{month:%Y-%m}",
                "snapshot": bill.snapshot,
                "file": bill.file_name,
                "sha256": digest,
                "lines": bill.line_count,
                "total": f"{bill.total:f}",
                "currency": bill.currency,
            },
            message=_("%(file)s: %(lines)d lines") % {"file": bill.file_name, "lines": bill.line_count},
        )
    return bill


@dataclass
class _Totals:
    """What was copied: how many lines, and what they cost, exactly."""

    lines: int = 0
    by_currency: dict[str, Decimal] = field(default_factory=dict)
    lines_by_currency: dict[str, int] = field(default_factory=dict)
    by_invoice: dict[str, Decimal] = field(default_factory=dict)

    def add(self, line: FocusLine) -> None:
        self.lines += 1
        currency = line.currency
        # The ordinary context rounds to 28 digits; a bill's sum must not.
        self.by_currency[currency] = EXACT.add(self.by_currency.get(currency, Decimal(0)), line.cost)
        self.lines_by_currency[currency] = self.lines_by_currency.get(currency, 0) + 1
        if line.invoice_id:
            self.by_invoice[line.invoice_id] = EXACT.add(
                self.by_invoice.get(line.invoice_id, Decimal(0)), line.cost
            )

    @property
    def currency(self) -> str:
        """The bill's currency is that of most lines; the others become findings."""
        return max(self.lines_by_currency, key=lambda name: (self.lines_by_currency[name], name))


def _copy_lines(cursor: Any, bill_id: int, lines: Iterator[FocusLine]) -> _Totals:
    totals = _Totals()

    def rows() -> Iterator[str]:
        for line in lines:
            totals.add(line)
            yield copy_line(bill_id, line)

    _copy(cursor, "billing_billline", LINE_COLUMNS, rows())
    return totals


def _copy(cursor: Any, table: str, columns: Sequence[str], rows: Iterator[str]) -> None:
    with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        while batch := "".join(islice(rows, BATCH)):
            copy.write(batch)


def _of_account(reader: FocusReader, account: ProviderAccount) -> Iterator[FocusLine]:
    """Yield the lines, refusing a file whose lines are another account's."""
    ours = account.account_id.strip().casefold()

    @lru_cache(maxsize=1000)
    def is_ours(billing_account: str, sub_account: str) -> bool:
        return ours in (billing_account.casefold(), sub_account.casefold())

    for line in reader:
        if ours and not is_ours(line.billing_account_id, line.sub_account_id):
            text = _("The line is of account %(found)s, but %(account)s has the id %(wanted)s.")
            facts = {
                "found": line.billing_account_id[:80],
                "account": account.name,
                "wanted": account.account_id,
            }
            raise refuse(line.ordinal, text % facts, "BillingAccountId")
        yield line


def _sha256(file: BinaryIO, limits: Limits) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    size = 0
    while chunk := file.read(CHUNK):
        size += len(chunk)
        if size > limits.bytes:
            raise refuse(0, _("The file is larger than %(limit)d bytes.") % {"limit": limits.bytes})
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _check_totals(header_total: Decimal | None, invoice_totals: Mapping[str, Decimal] | None) -> None:
    for name, total in {"header_total": header_total, **(invoice_totals or {})}.items():
        if total is not None and not total.is_finite():
            raise InvalidInput(_("The invoice total must be a number."), field=name)
