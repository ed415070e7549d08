"""Supply: what can be bought, what we hold, and how we know."""

from inventory.models.catalog import (
    Architecture,
    GpuModel,
    GpuSpelling,
    InstanceType,
    Offer,
    PricePoint,
    Provider,
    Region,
    Zone,
)
from inventory.models.holdings import Commitment, CommitmentDelivery, Fabric, Node, PollRun, ProviderAccount
from inventory.models.software import SoftwareStack, StackImage

__all__ = [
    "Architecture",
    "Commitment",
    "CommitmentDelivery",
    "Fabric",
    "GpuModel",
    "GpuSpelling",
    "InstanceType",
    "Node",
    "Offer",
    "PollRun",
    "PricePoint",
    "Provider",
    "ProviderAccount",
    "Region",
    "SoftwareStack",
    "StackImage",
    "Zone",
]
