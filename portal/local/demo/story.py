"""Who leases what and when, relative to the day the demo is played."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

PASSWORD = "sublet-demo"  # noqa: S105 - local mode only, and printed at every start
CUSTOMER = "demo@example.com"
STAFF = "staff@example.com"


@dataclass(frozen=True)
class Calendar:
    """The demo's fixed points in time, all UTC."""

    now: datetime

    @property
    def this_month(self) -> datetime:
        """The first moment of the current month."""
        return self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    @property
    def last_month(self) -> datetime:
        """The first moment of the month before."""
        return (self.this_month - timedelta(days=1)).replace(day=1)

    @property
    def opening(self) -> datetime:
        """When the reseller opened: a week before last month."""
        return self.last_month - timedelta(days=7)

    def day(self, number: int, hour: int = 9) -> datetime:
        """Return the ``number``-th day of last month."""
        return self.last_month + timedelta(days=number - 1, hours=hour)

    def ago(self, **delta: float) -> datetime:
        """Return a time before now, on the full hour."""
        return (self.now - timedelta(**delta)).replace(minute=0, second=0, microsecond=0)

    def ahead(self, **delta: float) -> datetime:
        """Return a time after now, on the full hour."""
        return (self.now + timedelta(**delta)).replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Customer:
    """A tenant of the demo."""

    email: str
    person: str
    name: str
    segment: str
    country: str
    mode: str
    top_up: Decimal
    credit_limit: Decimal = Decimal(0)


CUSTOMERS = (
    Customer(CUSTOMER, "Ada Osei", "Northwind AI", "startup", "IE", "prepaid", Decimal(64_000)),
    Customer(
        "lab@example.com", "Mei Tanaka", "Tidewater Protein Lab", "lab", "JP", "prepaid", Decimal(25_000)
    ),
    Customer(
        "enterprise@example.com",
        "Jonas Weber",
        "Halden Robotics",
        "enterprise",
        "DE",
        "postpaid",
        Decimal(0),
        credit_limit=Decimal(400_000),
    ),
)


@dataclass(frozen=True)
class Holding:
    """A commitment of the demo's reseller at the demo's cloud."""

    instance_type: str
    zone: str
    nodes: int
    cost_per_node_hour: Decimal
    fabric_size: int
    reservation_id: str
    delivered_in_parts: tuple[int, ...]


HOLDINGS = (
    Holding("p5.48xlarge", "us-east-1a", 8, Decimal("13.20"), 8, "cr-0a5d1e77b0f3c2915", (6, 2)),
    Holding("p5.48xlarge", "us-east-1b", 4, Decimal("13.60"), 4, "cr-03be94d1107c6a2f8", (4,)),
    Holding("p4de.24xlarge", "us-east-1b", 6, Decimal("6.40"), 6, "cr-0f12c6de5580ab934", (6,)),
)

PYTORCH, CUDA = "pytorch-2-9-ubuntu-24-04", "ubuntu-24-04-cuda"
H100 = "h100-sxm5-80gb"
A100 = "a100-sxm4-80gb"


@dataclass(frozen=True)
class Booking:
    """A lease of the story; ``outcome`` is what becomes of it."""

    customer: str
    name: str
    gpu_model: str
    nodes: int
    start: datetime
    end: datetime
    booked_at: datetime
    one_fabric: bool = False
    outcome: str = "run"  # run, wait, cancel
    stack: str | None = None


def bookings(calendar: Calendar) -> list[Booking]:
    """Return the story's bookings in the order they are made."""
    at = calendar
    northwind, tidewater, halden = (customer.name for customer in CUSTOMERS)
    found = [
        Booking(northwind, "pretrain-7b", H100, 2, at.day(3), at.day(9), at.day(1)),
        Booking(tidewater, "folding-sweep", A100, 2, at.day(5), at.day(13), at.day(2)),
        Booking(northwind, "eval-suite", A100, 1, at.day(12), at.day(14, 21), at.day(10)),
        Booking(
            halden,
            "perception-v4",
            H100,
            6,
            at.day(16),
            at.ahead(days=24),
            at.day(11),
            one_fabric=True,
            stack=CUDA,
        ),
        Booking(northwind, "reward-model", H100, 1, at.day(20), at.day(23), at.day(18)),
        Booking(tidewater, "folding-atlas", A100, 3, at.ago(days=20), at.ahead(days=5), at.ago(days=21)),
        Booking(halden, "sim-baseline", H100, 2, at.ago(days=19), at.ahead(days=10), at.ago(days=20)),
        Booking(
            northwind,
            "pretrain-13b",
            H100,
            2,
            at.ago(days=12),
            at.ahead(days=9),
            at.ago(days=14),
            stack=PYTORCH,
        ),
        Booking(tidewater, "binder-design", A100, 1, at.ago(days=2), at.ahead(days=5), at.ago(days=3)),
        Booking(northwind, "inference-canary", A100, 1, at.ago(hours=30), at.ahead(days=3), at.ago(days=2)),
        Booking(
            northwind, "finetune-q1", H100, 2, at.ahead(days=12), at.ahead(days=19), at.ago(hours=26), True
        ),
        Booking(halden, "sim-to-real", H100, 3, at.ahead(days=16), at.ahead(days=44), at.ago(hours=20), True),
        Booking(
            northwind,
            "scratch-benchmark",
            A100,
            2,
            at.ahead(days=6),
            at.ahead(days=8),
            at.ago(hours=12),
            outcome="cancel",
        ),
        Booking(
            tidewater,
            "climate-ensemble",
            A100,
            2,
            at.ahead(days=6),
            at.ahead(days=27),
            at.ago(hours=3),
            outcome="wait",
        ),
    ]
    return sorted(found, key=lambda booking: booking.booked_at)


@dataclass(frozen=True)
class Search:
    """Somebody looks for capacity that the reseller has not got."""

    customer: str
    gpu_model: str
    nodes: int
    start: datetime
    days: int
    asked_at: datetime


def searches(calendar: Calendar) -> list[Search]:
    """Return the story's searches that find nothing."""
    at = calendar
    northwind, tidewater, halden = (customer.name for customer in CUSTOMERS)
    return [
        Search(halden, H100, 16, at.ahead(days=20), 30, at.ago(days=9)),
        Search(northwind, H100, 12, at.ahead(days=8), 14, at.ago(days=6)),
        Search(northwind, "h200-sxm5-141gb", 4, at.ahead(days=10), 21, at.ago(days=4)),
        Search(tidewater, "h200-sxm5-141gb", 2, at.ahead(days=12), 28, at.ago(days=3)),
        Search(northwind, "b200-sxm6-180gb", 2, at.ahead(days=30), 14, at.ago(hours=20)),
        Search(northwind, "h200-sxm5-141gb", 4, at.ahead(days=10), 21, at.ago(hours=5)),
    ]
