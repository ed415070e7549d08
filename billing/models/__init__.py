"""Money: prices, quotes, charges, the ledger, invoices, payments, vendor bills."""

from billing.models.accounts import BillingAccount, FundsHold
from billing.models.charges import Charge, UsageRecord
from billing.models.invoices import (
    Invoice,
    InvoiceCounter,
    InvoiceLine,
    Payment,
    PaymentAllocation,
    Seller,
)
from billing.models.ledger import AccountingPeriod, Entry, LedgerAccount, Posting
from billing.models.prices import PriceRule, Quote
from billing.models.vendor import BillLine, BillRow, Finding, UpstreamAccrual, VendorBill

__all__ = [
    "AccountingPeriod",
    "BillLine",
    "BillRow",
    "BillingAccount",
    "Charge",
    "Entry",
    "Finding",
    "FundsHold",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "LedgerAccount",
    "Payment",
    "PaymentAllocation",
    "Posting",
    "PriceRule",
    "Quote",
    "Seller",
    "UpstreamAccrual",
    "UsageRecord",
    "VendorBill",
]
