"""What someone must settle about a bill: one finding for each difference, the same one every time (V3).

A finding is named by its class, its resource and the first moment of an unbroken
interval, so a machine billed for forty hours too many is one finding and not forty. Its
digest covers the lines' facts: while that stays, a settled finding stays settled; when
it changes, the finding is open again; when the difference is gone, it is cured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from billing.models import Finding, VendorBill
from billing.vendor import difference_queries as queries
from billing.vendor import tolerances
from billing.vendor.units import EXACT
from portal.common.money import format_money
from portal.common.periods import Period

BATCH = 1000
CHANGING = (
    "digest", "state", "material", "amount", "currency", "summary", "bill", "line", "line_count",
    "resource_id", "period", "settled_at", "settled_by", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One difference as the bill shows it now."""

    finding_class: str
    key: str
    digest: str
    amount: Decimal  # above zero: billed more than we expected
    material: bool
    summary: str
    currency: str
    resource_id: str = ""
    period: Period | None = None
    line_id: int | None = None
    lines: int = 0


@dataclass
class Changes:
    """How many findings the run opened, opened again, changed in passing, and cured."""

    opened: int = 0
    reopened: int = 0
    cured: int = 0
    unchanged: int = 0

    def any(self) -> bool:
        return bool(self.opened or self.reopened or self.cured)

    def as_dict(self) -> dict[str, int]:
        return {"opened": self.opened, "reopened": self.reopened, "cured": self.cured, "kept": self.unchanged}


def sync(cursor: Any, bill: VendorBill, *, now: datetime) -> Changes:
    """Part: bring the findings of the bill's account and month up to date with its lines.

    Expects the temporary tables of :mod:`billing.vendor.verdicts` and the month's lock.
    """
    wanted = {(found.key, found.finding_class): found for found in _all(cursor, bill, now)}
    known = {
        (finding.key, finding.finding_class): finding
        for finding in Finding.objects.filter(account_id=bill.account_id, month=bill.month)
    }
    changes = Changes()
    new = [_opened(bill, found, now) for name, found in wanted.items() if name not in known]
    changes.opened = len(new)
    changed = []
    for name, finding in known.items():
        if _update(finding, wanted.get(name), bill, changes, now):
            changed.append(finding)
    Finding.objects.bulk_create(new, batch_size=BATCH)
    Finding.objects.bulk_update(changed, CHANGING, batch_size=BATCH)
    return changes


def _opened(bill: VendorBill, found: Difference, now: datetime) -> Finding:
    finding = Finding(
        account_id=bill.account_id,
        month=bill.month,
        key=found.key,
        finding_class=found.finding_class,
        first_seen_at=now,
    )
    _describe(finding, found, bill)
    return finding


def _describe(finding: Finding, found: Difference, bill: VendorBill) -> None:
    finding.digest = found.digest
    finding.material = found.material
    finding.amount = found.amount
    finding.currency = found.currency
    finding.summary = found.summary[:300]
    finding.bill = bill
    finding.line_id = found.line_id
    finding.line_count = found.lines
    finding.resource_id = found.resource_id
    finding.period = found.period


def _update(
    finding: Finding, found: Difference | None, bill: VendorBill, changes: Changes, now: datetime
) -> bool:
    """Carry what is seen now into a known finding; return whether it must be written."""
    if found is None:
        if finding.state == Finding.State.CURED:
            return False
        finding.state = Finding.State.CURED
        finding.settled_at = now
        finding.settled_by = None
        finding.note = _with_note(
            finding.note, _("Cured: %(bill)s no longer shows it.") % {"bill": bill}, now
        )
        changes.cured += 1
        return True
    same = finding.digest == found.digest and finding.material == found.material
    if same and finding.bill_id == bill.pk and finding.state != Finding.State.CURED:
        changes.unchanged += 1
        return finding.line_id != found.line_id or finding.summary != found.summary[:300]
    reopens = finding.state == Finding.State.CURED or (
        finding.digest != found.digest and finding.state != Finding.State.OPEN
    )
    if reopens:
        was = format_money(finding.amount, finding.currency)
        finding.note = _with_note(
            finding.note,
            _("Open again: %(bill)s shows %(amount)s, it was %(was)s.")
            % {"bill": bill, "amount": format_money(found.amount, found.currency), "was": was},
            now,
        )
        finding.state = Finding.State.OPEN
        finding.settled_at = None
        finding.settled_by = None
        changes.reopened += 1
    else:
        changes.unchanged += 1
    _describe(finding, found, bill)
    return True


def _with_note(note: str, text: str, now: datetime) -> str:
    return f"{note}\n{now:%Y-%m-%d %H:%M} {text}".strip()


# --- where differences come from ------------------------------------------------------------------


def _all(cursor: Any, bill: VendorBill, now: datetime) -> Iterator[Difference]:
    yield from _of_lines(cursor, bill)
    yield from _of_commitments(cursor, bill)
    yield from _not_billed(cursor, bill, now)
    yield from _of_invoices(cursor, bill)


def _of_lines(cursor: Any, bill: VendorBill) -> Iterator[Difference]:
    cursor.execute(queries.NAME_LINES)  # no parameters: a percent sign is one
    cursor.execute(queries.OF_LINES, {"bill": bill.pk})
    for row in _rows(cursor):
        period = Period(row["start"], row["end"], "[)") if row["start"] else None
        yield Difference(
            finding_class=row["finding_class"],
            key=row["finding_key"],
            digest=row["digest"],
            amount=row["amount"],
            material=abs(row["amount"]) > tolerances.LINE_AMOUNT or row["finding_class"] == "fx",
            summary=_line_summary(row, row["currency"]),
            currency=row["currency"],
            resource_id=row["resource"],
            period=period,
            line_id=row["line"],
            lines=row["lines"],
        )


def _line_summary(row: dict[str, Any], currency: str) -> str:
    name = row["resource"] or row["service"] or _("no name")
    facts = {
        "name": name,
        "span": f"{row['start']:%Y-%m-%d %H:%M} – {row['end']:%Y-%m-%d %H:%M}" if row["start"] else "–",
        "amount": format_money(row["amount"], currency),
        "lease": row["lease"] or _("no lease"),
        "billed": _number(row["q"]),
        "used": _number(row["e"]),
        "price": format_money(row["billed_price"] or Decimal(0), currency, places=4),
        "agreed": format_money(row["p"], currency, places=4) if row["p"] is not None else _("no price known"),
    }
    texts = {
        "qty_over": _("%(name)s (%(lease)s): %(billed)s h billed, %(used)s h used, %(span)s: %(amount)s"),
        "qty_under": _("%(name)s (%(lease)s): only %(billed)s h billed of %(used)s h used, %(span)s: %(amount)s"),
        "price_variance": _("%(name)s (%(lease)s): billed at %(price)s an hour, agreed: %(agreed)s, %(span)s: %(amount)s"),
        "orphan_unknown": _("%(name)s: nobody leased this machine, %(span)s: %(amount)s"),
        "orphan_tail": _("%(name)s: billed after %(lease)s had ended, %(span)s: %(amount)s"),
        "orphan_head": _("%(name)s: billed before %(lease)s started, %(span)s: %(amount)s"),
        "duplicate": _("%(name)s: billed twice, %(span)s: %(amount)s"),
        "unit_mismatch": _("%(name)s: its unit is not understood, %(span)s: %(amount)s"),
        "missing_key": _("%(name)s: machine hours that name no machine, %(span)s: %(amount)s"),
        "fx": _("%(name)s: billed in another currency than the rest, %(span)s: %(amount)s"),
        "commitment_unknown": _("%(name)s: a commitment that is not recorded here, %(span)s: %(amount)s"),
    }  # fmt: skip
    return texts[row["finding_class"]] % facts


def _of_commitments(cursor: Any, bill: VendorBill) -> Iterator[Difference]:
    """Compare what was billed for each commitment and interval with its payment schedule."""
    cursor.execute(queries.OF_COMMITMENTS, {"bill": bill.pk, "currency": bill.currency})
    for row in _rows(cursor):
        amount = EXACT.subtract(row["billed"], row["expected"])
        tolerance = max(tolerances.LINE_AMOUNT * row["lines"], abs(row["expected"]) * tolerances.PRICE_SHARE)
        if abs(amount) <= tolerance:
            continue
        yield Difference(
            finding_class=Finding.Class.COMMITMENT_VARIANCE,
            key=_hash("commitment", row["uid"], row["start"].isoformat()),
            digest=_hash(f"{row['billed']:f}", f"{row['expected']:f}"),
            amount=amount,
            material=True,
            summary=_("Commitment %(uid)s, %(span)s: billed %(billed)s, the contract says %(expected)s")
            % {
                "uid": row["uid"],
                "span": f"{row['start']:%Y-%m-%d %H:%M} – {row['end']:%Y-%m-%d %H:%M}",
                "billed": format_money(row["billed"], bill.currency),
                "expected": format_money(row["expected"], bill.currency),
            },
            currency=bill.currency,
            resource_id=row["resource"],
            period=Period(row["start"], row["end"], "[)"),
            line_id=row["line"],
            lines=row["lines"],
        )


def _not_billed(cursor: Any, bill: VendorBill, now: datetime) -> Iterator[Difference]:
    """Report what ran in the month and no line covers; provisional while the bill may still come."""
    late = now - tolerances.latency(bill.account)
    start = datetime(bill.month.year, bill.month.month, 1, tzinfo=UTC)
    cursor.execute(
        queries.NOT_BILLED,
        {
            "bill": bill.pk,
            "account": bill.account_id,
            "start": start,
            "end": start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1),
            "late": late,
            "quantity_hours": tolerances.QUANTITY_HOURS,
            "quantity_share": tolerances.QUANTITY_SHARE,
        },
    )
    for row in _rows(cursor):
        final = row["start"] < late
        amount = -EXACT.multiply(row["hours"], row["price"] or Decimal(0))
        text = (
            _("%(name)s (%(lease)s): %(hours)s h used and not billed, %(span)s")
            if final
            else _("%(name)s (%(lease)s): %(hours)s h used and not billed yet, %(span)s")
        )
        yield Difference(
            finding_class=Finding.Class.LEASED_NOT_BILLED,
            key=_hash("not billed", row["resource"], row["start"].isoformat()),
            digest=_hash(f"{row['hours']:f}" if final else "provisional"),
            amount=amount,
            material=final and (abs(amount) > tolerances.LINE_AMOUNT or row["price"] is None),
            summary=text
            % {
                "name": row["resource"],
                "lease": row["lease"] or _("no lease"),
                "hours": _number(row["hours"]),
                "span": f"{row['start']:%Y-%m-%d %H:%M} – {row['end']:%Y-%m-%d %H:%M}",
            },
            currency=bill.currency,
            resource_id=row["resource"],
            period=Period(row["start"], row["end"], "[)"),
        )


def _of_invoices(cursor: Any, bill: VendorBill) -> Iterator[Difference]:
    """Tie the lines out to what the invoice states: per invoice where known, and in all."""
    cursor.execute(queries.OF_INVOICES, {"bill": bill.pk, "currency": bill.currency})
    summed = {row["invoice_id"]: (row["lines"], row["total"]) for row in _rows(cursor)}
    stated = {name: Decimal(total) for name, total in bill.invoice_totals.items()}
    checks = [
        (name, _("Invoice %(id)s") % {"id": name}, *summed.get(name, (0, Decimal(0))), total)
        for name, total in sorted(stated.items())
    ]
    if bill.header_total is not None:
        checks.append(("", _("The invoice"), bill.line_count, bill.total, bill.header_total))
    for name, label, lines, total, header in checks:
        amount = EXACT.subtract(total, header)
        if abs(amount) <= tolerances.invoice_tolerance(lines, bill.currency):
            continue
        yield Difference(
            finding_class=Finding.Class.INVOICE_TOTAL_MISMATCH,
            key=_hash("invoice", name),
            digest=_hash(f"{total:f}", f"{header:f}"),
            amount=amount,
            material=True,
            summary=_("%(label)s states %(header)s, its %(lines)d lines add up to %(total)s")
            % {
                "label": label,
                "header": format_money(header, bill.currency),
                "lines": lines,
                "total": format_money(total, bill.currency),
            },
            currency=bill.currency,
            lines=lines,
        )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _number(value: Decimal | None) -> str:
    return f"{(value or Decimal(0)).quantize(Decimal('0.001'), context=EXACT):f}"


def _rows(cursor: Any) -> Iterator[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    for row in cursor.fetchall():
        yield dict(zip(names, row, strict=True))
