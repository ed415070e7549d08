"""Supply: what can be bought, what we hold, and how we know."""

from inventory.models.catalog import GpuModel, InstanceType, Offer, PricePoint, Provider, Region, Zone
from inventory.models.holdings import Commitment, CommitmentDelivery, Fabric, Node, PollRun, ProviderAccount

__all__ = [
    "Commitment",
    "CommitmentDelivery",
    "Fabric",
    "GpuModel",
    "InstanceType",
    "Node",
    "Offer",
    "PollRun",
    "PricePoint",
    "Provider",
    "ProviderAccount",
    "Region",
    "Zone",
]
