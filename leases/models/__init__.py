"""Promises: leases, their terms, the nodes given to them, and the machines that serve them."""

from leases.models.allocations import Allocation, Shortfall
from leases.models.buying import CapacityChoice, CapacityInquiry, CapacityPurchase, UnmetSearch
from leases.models.leases import EndNotice, Lease, Term
from leases.models.machines import (
    Access,
    Instance,
    LaunchIntent,
    LeaseNetwork,
    Orphan,
    SiteIdentity,
    Turnover,
)

__all__ = [
    "Access",
    "Allocation",
    "CapacityChoice",
    "CapacityInquiry",
    "CapacityPurchase",
    "EndNotice",
    "Instance",
    "LaunchIntent",
    "Lease",
    "LeaseNetwork",
    "Orphan",
    "Shortfall",
    "SiteIdentity",
    "Term",
    "Turnover",
    "UnmetSearch",
]
