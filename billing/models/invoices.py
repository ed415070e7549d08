"""Invoices, their gapless numbers, and payments."""

from __future__ import annotations

from functools import partial

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.ledger import Entry
from leases.models import Lease
from portal.accounts.models import Organization
from portal.common.ids import public_id


class Seller(models.Model):
    """Who invoices: the reseller's legal entity and its series of numbers."""

    name = models.CharField(_("name"), max_length=120)
    address = models.TextField(_("address"), max_length=500)
    country = models.CharField(_("country"), max_length=2)
    tax_id = models.CharField(_("tax id"), max_length=40, blank=True)
    email = models.EmailField(_("e-mail"), blank=True)
    number_prefix = models.CharField(_("number prefix"), max_length=20, default="INV-", unique=True)
    tax_code = models.CharField(_("tax code"), max_length=20, default="NONE")
    tax_rate = models.DecimalField(_("tax rate"), max_digits=7, decimal_places=6, default=0)  # 0.23 for 23 %
    tax_reason = models.CharField(_("tax reason"), max_length=200, blank=True)
    payment_note = models.TextField(_("payment note"), max_length=500, blank=True)
    is_default = models.BooleanField(_("default"), default=False)

    class Meta:
        verbose_name = _("seller")
        verbose_name_plural = _("sellers")
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="one_default_seller"
            )
        ]

    def __str__(self) -> str:
        return self.name


class InvoiceCounter(models.Model):
    """The last number given per seller: a locked row, never a sequence, so there are no gaps."""

    seller = models.OneToOneField(Seller, on_delete=models.PROTECT, related_name="counter")
    last_number = models.PositiveIntegerField(default=0)


class Invoice(models.Model):
    """A month's charges of one organization. Once finalized it never changes (M6)."""

    class State(models.TextChoices):
        DRAFT = "draft", _("Draft")
        OPEN = "open", _("Open")
        PAID = "paid", _("Paid")
        VOID = "void", _("Void")

    uid = models.CharField(max_length=32, unique=True, default=partial(public_id, "inv"), editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="invoices")
    seller = models.ForeignKey(Seller, on_delete=models.PROTECT, related_name="invoices")
    month = models.DateField(_("month"))  # first day
    currency = models.CharField(_("currency"), max_length=3)
    state = models.CharField(_("state"), max_length=16, choices=State, default=State.DRAFT)
    sequence = models.PositiveIntegerField(_("sequence"), null=True, blank=True)
    number = models.CharField(_("number"), max_length=40, blank=True)
    issued_at = models.DateTimeField(_("issued"), null=True, blank=True)
    due_on = models.DateField(_("due"), null=True, blank=True)
    voided_at = models.DateTimeField(_("voided"), null=True, blank=True)
    void_reason = models.CharField(_("void reason"), max_length=200, blank=True)
    seller_snapshot = models.JSONField(default=dict, blank=True)
    buyer_snapshot = models.JSONField(default=dict, blank=True)
    subtotal = models.DecimalField(_("subtotal"), max_digits=20, decimal_places=8, default=0)
    tax = models.DecimalField(_("tax"), max_digits=20, decimal_places=8, default=0)
    total = models.DecimalField(_("total"), max_digits=20, decimal_places=8, default=0)
    entry = models.OneToOneField(
        Entry, on_delete=models.PROTECT, null=True, blank=True, related_name="invoice"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("invoice")
        verbose_name_plural = _("invoices")
        ordering = ["-month", "-pk"]
        constraints = [
            models.UniqueConstraint(fields=["seller", "sequence"], name="invoice_sequence_once"),
            models.UniqueConstraint(
                fields=["organization", "month", "currency"],
                condition=Q(state="draft"),
                name="one_draft_per_month",
            ),
            models.CheckConstraint(
                condition=Q(state="draft", sequence=None) | (~Q(state="draft") & Q(sequence__isnull=False)),
                name="invoice_numbered_when_final",
            ),
            models.CheckConstraint(condition=Q(total=F("subtotal") + F("tax")), name="invoice_adds_up"),
        ]

    def __str__(self) -> str:
        return self.number or f"{_('Draft')} {self.month:%Y-%m}"


class InvoiceLine(models.Model):
    """One row; ``amount`` is the charges' exact sum, rounded once to the minor unit."""

    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    ordinal = models.PositiveIntegerField()
    lease = models.ForeignKey(Lease, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    description = models.CharField(_("description"), max_length=300)
    quantity = models.DecimalField(_("quantity"), max_digits=20, decimal_places=8)
    unit = models.CharField(_("unit"), max_length=16)  # "gpu_hour", "each"
    unit_price = models.DecimalField(_("unit price"), max_digits=20, decimal_places=8)
    exact_amount = models.DecimalField(_("exact"), max_digits=20, decimal_places=8)
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)
    tax_code = models.CharField(_("tax code"), max_length=20)
    tax_rate = models.DecimalField(_("tax rate"), max_digits=7, decimal_places=6)
    tax_amount = models.DecimalField(_("tax"), max_digits=20, decimal_places=8)
    tax_reason = models.CharField(_("tax reason"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("invoice line")
        verbose_name_plural = _("invoice lines")
        ordering = ["invoice", "ordinal"]
        constraints = [models.UniqueConstraint(fields=["invoice", "ordinal"], name="invoice_line_order")]

    def __str__(self) -> str:
        return self.description


class Payment(models.Model):
    """Money received, or drawn from the wallet, for invoices."""

    class Method(models.TextChoices):
        TOP_UP = "top_up", _("Wallet top-up")  # money received into the wallet, for no invoice yet
        WALLET = "wallet", _("Wallet")
        BANK = "bank", _("Bank transfer")

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="payments")
    method = models.CharField(_("method"), max_length=16, choices=Method)
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)
    currency = models.CharField(_("currency"), max_length=3)
    reference = models.CharField(_("reference"), max_length=120, unique=True)
    received_at = models.DateTimeField(_("received"))
    entry = models.OneToOneField(Entry, on_delete=models.PROTECT, related_name="payment")

    class Meta:
        verbose_name = _("payment")
        verbose_name_plural = _("payments")
        ordering = ["-pk"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="payment_positive")]

    def __str__(self) -> str:
        return self.reference


class PaymentAllocation(models.Model):
    """What part of a payment settles which invoice; *paid* is their sum."""

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="allocations")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="payment_allocations")
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)
    reversed_at = models.DateTimeField(_("reversed"), null=True, blank=True)

    class Meta:
        verbose_name = _("payment allocation")
        verbose_name_plural = _("payment allocations")
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="payment_allocation_positive")]

    def __str__(self) -> str:
        return f"{self.payment} → {self.invoice}"
