"""Vendor bills: what a provider says we owe, row by row, and what someone must settle."""

from __future__ import annotations

import csv
import io
from functools import partial

from django.conf import settings
from django.contrib.postgres.fields import DateTimeRangeField
from django.core.checks import CheckMessage
from django.db import models
from django.db.models import Field, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.ledger import Entry
from inventory.models import ProviderAccount
from leases.models import Allocation, Instance
from portal.common.ids import public_id


class ExactNumericField(models.DecimalField):  # type: ignore[type-arg]
    """PostgreSQL ``numeric`` without a scale: real bills carry 11 to 28 decimals."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("max_digits", None)
        kwargs.setdefault("decimal_places", None)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def db_type(self, connection: object) -> str:
        return "numeric"

    def get_db_prep_value(self, value: object, connection: object, prepared: bool = False) -> object:
        return Field.get_db_prep_value(self, value, connection, prepared)  # type: ignore[arg-type]

    def get_db_prep_save(self, value: object, connection: object) -> object:
        return value if hasattr(value, "as_sql") else self.to_python(value)

    def check(self, **kwargs: object) -> list[CheckMessage]:
        return []


class VendorBill(models.Model):
    """One delivery of a provider account's bill for a month: a snapshot of all its rows."""

    class State(models.TextChoices):
        LANDED = "landed", _("Landed")
        CLASSIFIED = "classified", _("Classified")
        APPROVED = "approved", _("Approved for payment")
        REPLACED = "replaced", _("Replaced by a later snapshot")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "bil"), editable=False)
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="bills")
    month = models.DateField(_("month"))  # first day of the billing period
    snapshot = models.PositiveIntegerField(_("snapshot"), default=1)
    file_name = models.CharField(_("file"), max_length=200)
    sha256 = models.CharField(max_length=64)
    columns = models.JSONField(default=list, blank=True)  # the file's header: what each raw value is called
    format = models.CharField(_("format"), max_length=20)  # "FOCUS 1.0"
    currency = models.CharField(_("currency"), max_length=3)
    invoice_ids = models.JSONField(_("invoices"), default=dict, blank=True)  # id → summed cost as text
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.LANDED)
    line_count = models.PositiveIntegerField(_("lines"), default=0)
    total = ExactNumericField(_("total"))
    header_total = ExactNumericField(_("invoice total"), null=True, blank=True)
    invoice_totals = models.JSONField(default=dict, blank=True)  # invoice id → total it states, as text
    classes = models.JSONField(default=dict, blank=True)  # class → [lines, summed cost as text], for lists
    landed_at = models.DateTimeField(_("landed"), default=timezone.now)
    landed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    approved_at = models.DateTimeField(_("approved"), null=True, blank=True)
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, null=True, blank=True, related_name="bill")

    class Meta:
        verbose_name = _("vendor bill")
        verbose_name_plural = _("vendor bills")
        ordering = ["-month", "-pk"]
        constraints = [
            models.UniqueConstraint(fields=["account", "month", "sha256"], name="bill_file_once"),  # V2
            models.UniqueConstraint(fields=["account", "month", "snapshot"], name="bill_snapshot_once"),
            models.UniqueConstraint(
                fields=["account", "month"], condition=~Q(state="replaced"), name="one_live_bill_per_month"
            ),
        ]

    already_landed = False  # set by landing.land() where the file was known and nothing changed

    def __str__(self) -> str:
        return f"{self.account} {self.month:%Y-%m} #{self.snapshot}"


class BillRow(models.Model):
    """One record of the file, letter for letter: evidence, read by people and never by queries.

    Apart from :class:`BillLine`, so that writing a line's class does not copy its text.
    """

    # Without a foreign key in the database: a bill and its rows are inserted together and never deleted,
    # and checking each row would cost a tenth of the landing.
    bill = models.ForeignKey(
        VendorBill, on_delete=models.DO_NOTHING, related_name="rows", db_index=False, db_constraint=False
    )
    ordinal = models.PositiveIntegerField()  # as its line's
    text = models.TextField()

    class Meta:
        verbose_name = _("bill row")
        verbose_name_plural = _("bill rows")
        constraints = [models.UniqueConstraint(fields=["bill", "ordinal"], name="bill_row_once")]

    def __str__(self) -> str:
        return self.text


class BillLine(models.Model):
    """One landed row, normalised, in exactly one class (V1); :attr:`raw` is the row as it came."""

    class Class(models.TextChoices):
        MATCHED = "matched", _("Matched")
        WITHIN_TOLERANCE = "within_tolerance", _("Within tolerance")
        QTY_OVER = "qty_over", _("Billed more than used")
        QTY_UNDER = "qty_under", _("Billed less than used")
        PRICE_VARIANCE = "price_variance", _("Not the contract price")
        ORPHAN_UNKNOWN = "orphan_unknown", _("Machine nobody leased")
        ORPHAN_TAIL = "orphan_tail", _("Billed after the lease ended")
        ORPHAN_HEAD = "orphan_head", _("Billed before the lease started")
        DUPLICATE = "duplicate", _("Billed twice")
        COMMITMENT = "commitment", _("Commitment purchase or fee")
        COMMITMENT_UNUSED = "commitment_unused", _("Commitment not used")
        CORRECTION = "correction", _("Correction")
        CREDIT = "credit", _("Credit")
        TAX = "tax", _("Tax")
        FEE = "fee", _("Fee")
        ANCILLARY = "ancillary", _("Storage, network and other")
        UNIT_MISMATCH = "unit_mismatch", _("Unit not understood")
        MISSING_KEY = "missing_key", _("No key to match by")
        FX = "fx", _("Another currency")

    bill = models.ForeignKey(
        VendorBill, on_delete=models.DO_NOTHING, related_name="lines", db_index=False, db_constraint=False
    )  # as its row's; found through bill_line_once
    ordinal = models.PositiveIntegerField()  # line of the file, the header is 1
    line_key = models.CharField(max_length=32)  # hash of resource, SKU, interval, category
    resource_id = models.CharField(max_length=300, blank=True)
    sku_id = models.CharField(max_length=200, blank=True)
    sku_meter = models.CharField(max_length=200, blank=True)
    service = models.CharField(max_length=200, blank=True)
    service_category = models.CharField(max_length=60, blank=True)  # FOCUS ServiceCategory, lower case
    region_code = models.CharField(max_length=60, blank=True)
    category = models.CharField(max_length=20)  # FOCUS ChargeCategory, lower case
    correction = models.BooleanField(default=False)  # FOCUS ChargeClass
    description = models.TextField(blank=True)
    invoice_id = models.CharField(max_length=120, blank=True)
    reservation_id = models.CharField(max_length=200, blank=True)  # FOCUS CapacityReservationId
    commitment_ref = models.CharField(max_length=200, blank=True)  # FOCUS CommitmentDiscountId
    commitment_status = models.CharField(max_length=10, blank=True)  # "used", "unused" of either
    period = DateTimeRangeField(null=True, default_bounds="[)")
    quantity = ExactNumericField(null=True, blank=True)
    unit = models.CharField(max_length=60, blank=True)
    measure = models.CharField(max_length=8, blank=True)  # what the unit measures, see vendor.units
    hours = ExactNumericField(null=True, blank=True)  # the quantity in hours, where it is a time
    cost = ExactNumericField()  # BilledCost
    currency = models.CharField(max_length=3)
    tags = models.JSONField(default=dict, blank=True)

    line_class = models.CharField(_("class"), max_length=24, choices=Class, blank=True)
    # The matching joins machines to lines, so checking each one again would double its cost; V3 audits it.
    rule = models.CharField(_("rule"), max_length=60, blank=True)  # how it was matched
    instance = models.ForeignKey(
        Instance,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="bill_lines",
        db_index=False,
        db_constraint=False,
    )
    allocation = models.ForeignKey(
        Allocation,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="bill_lines",
        db_index=False,
        db_constraint=False,
    )
    expected_hours = ExactNumericField(null=True, blank=True)
    expected_price = ExactNumericField(null=True, blank=True)
    quantity_variance = ExactNumericField(null=True, blank=True)  # (Qb − Qe) · Pe
    price_variance = ExactNumericField(null=True, blank=True)  # Qb · (Pb − Pe)
    finding = models.ForeignKey(
        "billing.Finding",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="lines",
        db_index=False,
    )

    class Meta:
        verbose_name = _("bill line")
        verbose_name_plural = _("bill lines")
        ordering = ["bill", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["bill", "ordinal"], name="bill_line_once")]
        indexes = [
            models.Index(fields=["bill", "line_class"], name="bill_line_class"),
            # Lines land without these, so that landing pays for none of them.
            models.Index(fields=["instance"], condition=Q(instance__isnull=False), name="bill_line_instance"),
            models.Index(
                fields=["allocation"], condition=Q(allocation__isnull=False), name="bill_line_allocation"
            ),
            models.Index(fields=["finding"], condition=Q(finding__isnull=False), name="bill_line_finding"),
        ]

    def __str__(self) -> str:
        return f"{self.bill} line {self.ordinal}"

    @property
    def raw(self) -> dict[str, str]:
        """Return the row as the file has it: column to text."""
        row = BillRow.objects.get(bill_id=self.bill_id, ordinal=self.ordinal)
        return dict(zip(self.bill.columns, next(csv.reader(io.StringIO(row.text, newline=""))), strict=False))


class Finding(models.Model):
    """A difference that someone must settle; identified by what it is about (V3)."""

    class Class(models.TextChoices):
        QTY_OVER = "qty_over", _("Billed more than used")
        QTY_UNDER = "qty_under", _("Billed less than used")
        PRICE_VARIANCE = "price_variance", _("Not the contract price")
        ORPHAN_UNKNOWN = "orphan_unknown", _("Machine nobody leased")
        ORPHAN_TAIL = "orphan_tail", _("Billed after the lease ended")
        ORPHAN_HEAD = "orphan_head", _("Billed before the lease started")
        DUPLICATE = "duplicate", _("Billed twice")
        UNIT_MISMATCH = "unit_mismatch", _("Unit not understood")
        MISSING_KEY = "missing_key", _("No key to match by")
        FX = "fx", _("Another currency")
        COMMITMENT_VARIANCE = "commitment_variance", _("Not what the commitment costs")
        COMMITMENT_UNKNOWN = "commitment_unknown", _("Commitment we do not know")
        LEASED_NOT_BILLED = "leased_not_billed", _("Used but not billed")
        INVOICE_TOTAL_MISMATCH = "invoice_total_mismatch", _("Lines do not add up to the invoice")

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        DISPUTED = "disputed", _("Disputed")
        ACCEPTED = "accepted", _("Accepted")
        CURED = "cured", _("Cured by a later bill")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "fnd"), editable=False)
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="findings")
    month = models.DateField(_("month"))
    key = models.CharField(max_length=64)  # hash of the line, or of the resource and its first moment
    digest = models.CharField(max_length=64, blank=True)  # of its lines' facts: another one re-opens it
    resource_id = models.CharField(_("resource"), max_length=300, blank=True)
    period = DateTimeRangeField(_("period"), null=True, blank=True, default_bounds="[)")
    line_count = models.PositiveIntegerField(_("lines"), default=0)
    finding_class = models.CharField(_("class"), max_length=24, choices=Class)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.OPEN)
    material = models.BooleanField(_("material"), default=True)
    amount = ExactNumericField(_("amount"))  # what it is worth to us, in the bill's currency
    currency = models.CharField(_("currency"), max_length=3)
    summary = models.CharField(_("summary"), max_length=300)
    bill = models.ForeignKey(
        VendorBill, on_delete=models.SET_NULL, null=True, blank=True, related_name="findings"
    )
    line = models.ForeignKey(
        BillLine, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )  # the first of its lines; all of them point back here
    first_seen_at = models.DateTimeField(_("first seen"), default=timezone.now)
    settled_at = models.DateTimeField(_("settled"), null=True, blank=True)
    settled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    note = models.TextField(_("note"), blank=True)

    class Meta:
        verbose_name = _("finding")
        verbose_name_plural = _("findings")
        ordering = ["-material", "-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "month", "key", "finding_class"], name="finding_once"
            ),  # V3
            models.CheckConstraint(
                condition=Q(state="open") | Q(settled_at__isnull=False), name="finding_settled_has_time"
            ),
        ]

    def __str__(self) -> str:
        return self.summary


class UpstreamAccrual(models.Model):
    """What we expect to owe a provider account for a month; a later revision adds the difference."""

    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="accruals")
    month = models.DateField(_("month"))  # its first day, UTC
    currency = models.CharField(_("currency"), max_length=3)
    revision = models.PositiveIntegerField(_("revision"))
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)  # this revision's difference
    expected = models.DecimalField(_("expected"), max_digits=20, decimal_places=8)  # all revisions together
    breakdown = models.JSONField(default=list, blank=True)  # the arithmetic, line by line
    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, related_name="upstream_accrual")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("upstream accrual")
        verbose_name_plural = _("upstream accruals")
        ordering = ["-month", "account", "currency", "-revision"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "month", "currency", "revision"], name="accrual_revision_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.account} {self.month:%Y-%m} {self.amount} {self.currency}"
