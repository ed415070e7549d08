"""A customer's money with us: wallet, credit limit, and what is spoken for."""

from __future__ import annotations

from decimal import Decimal

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from leases.models import Lease
from portal.accounts.models import Organization


class BillingAccount(models.Model):
    """How an organization pays; the first row that any money path locks (the wallet).

    ``balance`` mirrors the ledger's wallet account, ``owed`` what is charged and not
    paid (unbilled charges and open invoices), ``reserved`` the open funds holds. All
    three change only together with their ledger entry, in one statement, under the lock.
    """

    class Mode(models.TextChoices):
        PREPAID = "prepaid", _("Prepaid")
        POSTPAID = "postpaid", _("Postpaid")

    organization = models.OneToOneField(Organization, on_delete=models.PROTECT, related_name="billing")
    mode = models.CharField(_("mode"), max_length=16, choices=Mode, default=Mode.PREPAID)
    currency = models.CharField(_("currency"), max_length=3, default="USD")
    credit_limit = models.DecimalField(_("credit limit"), max_digits=20, decimal_places=8, default=Decimal(0))
    payment_days = models.PositiveIntegerField(_("payment term, days"), default=14)
    balance = models.DecimalField(
        _("wallet"), max_digits=20, decimal_places=8, default=Decimal(0), editable=False
    )
    reserved = models.DecimalField(
        _("reserved"), max_digits=20, decimal_places=8, default=Decimal(0), editable=False
    )
    owed = models.DecimalField(_("owed"), max_digits=20, decimal_places=8, default=Decimal(0), editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("billing account")
        verbose_name_plural = _("billing accounts")
        constraints = [
            models.CheckConstraint(condition=Q(balance__gte=0), name="wallet_not_below_zero"),  # M7
            models.CheckConstraint(condition=Q(reserved__gte=0), name="reserved_not_below_zero"),
            models.CheckConstraint(condition=Q(credit_limit__gte=0), name="credit_limit_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.organization} ({self.get_mode_display()})"

    @property
    def spendable(self) -> Decimal:
        """Return what a new promise may cost: wallet and credit less what is spoken for."""
        credit = self.credit_limit if self.mode == self.Mode.POSTPAID else Decimal(0)
        return self.balance + credit - self.reserved - self.owed


class FundsHold(models.Model):
    """Funds that an accepted quote keeps for its lease, tax included; each charge uses it up."""

    account = models.ForeignKey(BillingAccount, on_delete=models.PROTECT, related_name="holds")
    lease = models.OneToOneField(Lease, on_delete=models.PROTECT, related_name="funds_hold")
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)
    remaining = models.DecimalField(_("remaining"), max_digits=20, decimal_places=8)
    tax_rate = models.DecimalField(_("tax rate"), max_digits=7, decimal_places=6, default=Decimal(0))
    created_at = models.DateTimeField(default=timezone.now)
    released_at = models.DateTimeField(_("released"), null=True, blank=True)

    class Meta:
        verbose_name = _("funds hold")
        verbose_name_plural = _("funds holds")
        constraints = [
            models.CheckConstraint(
                condition=Q(remaining__gte=0, remaining__lte=F("amount")),
                name="funds_hold_remaining_in_range",
            )
        ]

    def __str__(self) -> str:
        return f"{self.remaining} / {self.amount}"
