"""Money in the staff's admin. Nothing here can edit the ledger: staff call the product's functions.

Django wraps add and change forms in a transaction, so those call parts. Actions and the
extra pages run outside of one, and call public functions.
"""

from billing.admin import findings, invoices, money, prices, vendor

__all__ = ["findings", "invoices", "money", "prices", "vendor"]
