"""The double-entry ledger; its rules M1-M4 are PostgreSQL's (see the migrations)."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from inventory.models import ProviderAccount
from portal.accounts.models import Organization


class AccountingPeriod(models.Model):
    """A month of the books. Closing locks the row FOR UPDATE; posting reads it FOR SHARE (M3)."""

    month = models.DateField(_("month"), unique=True)  # its first day, UTC
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )

    class Meta:
        verbose_name = _("accounting period")
        verbose_name_plural = _("accounting periods")
        ordering = ["-month"]
        constraints = [models.CheckConstraint(condition=Q(month__day=1), name="period_starts_on_first")]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class LedgerAccount(models.Model):
    """An account of the chart, in one currency, perhaps one customer's or provider account's."""

    class Kind(models.TextChoices):
        CASH = "cash", _("Cash")
        WALLET = "wallet", _("Customer wallet")
        RECEIVABLE = "receivable", _("Receivable")
        UNBILLED = "unbilled", _("Unbilled charges")
        REVENUE = "revenue", _("Revenue")
        CREDITS = "credits", _("Credits granted")
        TAX = "tax", _("Tax payable")
        ROUNDING = "rounding", _("Rounding")
        UPSTREAM_COST = "upstream_cost", _("Upstream cost")
        UPSTREAM_ACCRUED = "upstream_accrued", _("Upstream cost accrued")
        PAYABLE = "payable", _("Payable to providers")
        DISPUTED = "disputed", _("Disputed with providers")

    kind = models.CharField(_("kind"), max_length=20, choices=Kind)
    currency = models.CharField(_("currency"), max_length=3)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, blank=True, related_name="ledger_accounts"
    )
    provider_account = models.ForeignKey(
        ProviderAccount, on_delete=models.PROTECT, null=True, blank=True, related_name="ledger_accounts"
    )

    class Meta:
        verbose_name = _("ledger account")
        verbose_name_plural = _("ledger accounts")
        ordering = ["kind", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "currency", "organization", "provider_account"],
                nulls_distinct=False,
                name="ledger_account_once",
            )
        ]

    def __str__(self) -> str:
        owner = self.organization or self.provider_account
        return f"{self.get_kind_display()} {self.currency}" + (f", {owner}" if owner else "")


class Entry(models.Model):
    """One balanced set of postings. Never changed; corrections are reversals (M2)."""

    key = models.CharField(_("idempotency key"), max_length=200, unique=True)  # M4
    payload_hash = models.CharField(max_length=64)
    period = models.ForeignKey(AccountingPeriod, on_delete=models.PROTECT, related_name="entries")
    effective_at = models.DateTimeField(_("effective"))  # when it happened; late facts keep it
    posted_at = models.DateTimeField(_("posted"), default=timezone.now)
    description = models.CharField(_("description"), max_length=200)
    # How many postings it was made with: a later one, even a balanced pair, is refused (M1, M2).
    lines = models.PositiveSmallIntegerField(_("lines"))
    reverses = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="reversed_by"
    )

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger entries")
        ordering = ["-pk"]
        constraints = [models.CheckConstraint(condition=Q(lines__gte=2), name="entry_has_two_lines")]

    def __str__(self) -> str:
        return self.key


class Posting(models.Model):
    """One side: debit above zero, credit below. An entry's postings sum to zero (M1)."""

    entry = models.ForeignKey(Entry, on_delete=models.PROTECT, related_name="postings")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="postings")
    currency = models.CharField(_("currency"), max_length=3)
    amount = models.DecimalField(_("amount"), max_digits=20, decimal_places=8)

    class Meta:
        verbose_name = _("posting")
        verbose_name_plural = _("postings")
        ordering = ["pk"]
        constraints = [models.CheckConstraint(condition=~Q(amount=0), name="posting_not_zero")]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"
