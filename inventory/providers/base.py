"""What every cloud adapter offers: plain values in, plain values out, no database.

An adapter talks to one account of one provider. It never retries a launch by itself,
never opens a transaction, and raises only :mod:`inventory.providers.errors`. What a
vendor lacks is missing from ``capabilities``; nothing is faked.

All times are aware UTC. Prices are per hour of the whole instance, in ``currency``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

# Every resource that we create upstream carries these, so that it can be found again
# after a doubt (P1), and recognised as ours or as an orphan (P2).
TAG_LEASE = "sublet:lease"
TAG_ALLOCATION = "sublet:allocation"
TAG_TOKEN = "sublet:token"  # noqa: S105 - the name of a tag
# Which site made it (leases.provisioning.upstream.site_id): nobody touches another site's.
TAG_SITE = "sublet:site"


class Capability(StrEnum):
    """What an adapter can do beyond the minimum of launch, describe and reclaim."""

    PRICES = "prices"  # offers carry prices; otherwise a rate card is needed
    AVAILABILITY = "availability"  # offers say what is in stock now
    SPOT = "spot"
    COMMITTED_CAPACITY = "committed-capacity"  # launches can target a reservation, and nothing else
    BUYABLE_CAPACITY = "buyable-capacity"  # reservations can be found and bought: CapacitySeller
    IMAGES = "images"  # a launch takes an image that we choose
    GROUP_LAUNCH = "group-launch"  # several machines in one call, all or none
    # The machines of one launch end only together: reclaim() gets all their ids at once.
    ENDS_TOGETHER = "ends-together"
    # reclaim() wipes the machine for its next tenant and keeps it, for example on reserved metal.
    REIMAGE = "re-image"
    FIREWALL = "firewall"  # a network of its own for every lease
    KEY_PAIRS = "key-pairs"
    USER_DATA = "user-data"
    MACHINE_STATUS = "machine-status"  # describe() tells whether a machine passed its checks
    OWNED_VOLUMES = "owned-volumes"
    OWNED_ADDRESSES = "owned-addresses"
    OWNED_NETWORKS = "owned-networks"
    OWNED_KEYS = "owned-keys"


class PurchaseOption(StrEnum):
    ON_DEMAND = "on_demand"
    SPOT = "spot"
    RESERVED = "reserved"


class Availability(StrEnum):
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class MachineState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"  # on its way out of service, or stopped: not usable, not yet gone
    TERMINATED = "terminated"
    UNKNOWN = "unknown"


class ResourceKind(StrEnum):
    INSTANCE = "instance"
    VOLUME = "volume"
    ADDRESS = "address"
    NETWORK = "network"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class CredentialField:
    """One thing that staff enter for an account, in ``lines`` or in one; every value is stored encrypted."""

    name: str
    label: StrOrPromise
    required: bool = True
    lines: bool = False  # a file, whose line ends a field of one line would lose


@dataclass(frozen=True, slots=True)
class ZoneInfo:
    code: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class RegionInfo:
    code: str
    name: str = ""
    zones: tuple[ZoneInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceTypeInfo:
    """One SKU. ``gpu_memory_mib`` is that of one GPU; zero GPUs means none or a fraction.

    ``gpu_name`` is the vendor's own spelling, untouched; empty where the vendor names no
    GPU, and then ``name`` is looked up instead (:mod:`inventory.gpu_names`). A figure
    that the vendor does not give is 0. ``network`` says how the GPUs of several machines
    reach each other ("InfiniBand 3200 Gbit/s"), where the vendor says it.
    """

    name: str
    vcpus: int
    memory_mib: int
    gpu_vendor: str = ""
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_mib: int = 0
    network: str = ""
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class OfferInfo:
    """What is sold: a type in a region, in some of its zones, under one purchase option.

    ``price`` is per hour of the whole instance, or None where the provider has no price
    API. Anything but a finite positive amount is refused when the poll is checked.
    """

    instance_type: str
    region: str
    zones: tuple[str, ...] = ()
    purchase_option: PurchaseOption = PurchaseOption.ON_DEMAND
    price: Decimal | None = None
    currency: str = "USD"
    availability: Availability = Availability.UNKNOWN


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of one region, read completely: an adapter that got half raises instead."""

    region: RegionInfo
    instance_types: tuple[InstanceTypeInfo, ...]
    offers: tuple[OfferInfo, ...]


@dataclass(frozen=True, slots=True)
class AccountIdentity:
    """Who the credentials belong to, as the provider says it; for the staff's test.

    ``account`` is what machines belong to, and stays the same when only the key is
    rotated: a listing by credentials of another account proves nothing about ours. Empty
    where the vendor does not say it.
    """

    account: str
    principal: str = ""


@dataclass(frozen=True, slots=True)
class LeaseNetworkRequest:
    """The firewall and key that a lease has for itself.

    Inbound, ``ssh_cidrs`` reach tcp/22 and the lease's own machines reach each other;
    nothing else gets in. The call is idempotent: a second one corrects what differs.
    """

    lease: str
    region: str
    ssh_cidrs: tuple[str, ...]
    ssh_public_keys: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseNetwork:
    region: str
    firewall_id: str
    key_name: str


@dataclass(frozen=True, slots=True)
class LaunchGroup:
    """Machines to launch in one call: all of them, or none and an error.

    ``count`` is more than one only with :attr:`Capability.GROUP_LAUNCH`. With
    ``reservation_id`` the launch targets that committed capacity and never falls back to
    on-demand, which would pay twice. ``client_token`` names the whole group and is also
    put in the tag :data:`TAG_TOKEN` of every machine (:mod:`~inventory.providers.naming`
    where the vendor has names only). ``node`` is our own name of the node where there is
    one: own metal is picked by it. An empty ``image`` means the account's own default, an empty
    ``login_user`` (whom the keys let in) the account's own or the vendor's.
    """

    client_token: str
    count: int
    instance_type: str
    region: str
    zone: str = ""
    node: str = ""
    image: str = ""
    login_user: str = ""
    ssh_public_keys: tuple[str, ...] = ()
    user_data: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    reservation_id: str | None = None
    purchase_option: PurchaseOption = PurchaseOption.ON_DEMAND
    firewall_id: str = ""
    key_name: str = ""


@dataclass(frozen=True, slots=True)
class LaunchedInstance:
    """What a launch made. The id names this tenancy and is never given again.

    An adapter with :attr:`Capability.REIMAGE` gives the same metal another id for every
    launch (``rack4-u7/lau_…``): asked about an old id it must not answer about, or wipe,
    the machine of the next tenant.
    """

    id: str
    zone: str = ""
    raw_state: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the provider sees it now.

    ``status_ok`` is the provider's own health check: None where it has none or has not
    finished. ``reason`` is why it ended, in the provider's words. With
    :attr:`Capability.REIMAGE` a machine reads *terminated* for its tenant once the wipe is
    done; ``evidence`` is then what the provider says about the end and the wipe, for
    example ``wiped_at`` (ISO 8601, with its UTC offset), and is kept with the turnover.
    ``ssh_port`` is the port at ``public_ip`` that leads to its SSH, where the vendor picks
    one; 0 means the usual one.
    """

    id: str
    region: str
    state: MachineState
    raw_state: str = ""
    zone: str = ""
    instance_type: str = ""
    public_ip: str = ""
    private_ip: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    launched_at: datetime | None = None
    status_ok: bool | None = None
    reason: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    ssh_port: int = 0


@dataclass(frozen=True, slots=True)
class OwnedResource:
    """Something upstream that carries one of our tags, and may cost money.

    Where a name carries them, ``tags`` are what :func:`~inventory.providers.naming.tags_of`
    reads from it.
    """

    kind: ResourceKind
    id: str
    region: str
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    state: str = ""


@dataclass(frozen=True, slots=True)
class CapacityRequest:
    """Capacity that the reseller looks for: ``count`` nodes for ``hours`` between two moments (UTC)."""

    instance_type: str
    region: str
    count: int
    hours: int
    earliest: datetime
    latest: datetime  # the last moment at which it may end


@dataclass(frozen=True, slots=True)
class CapacityOffering:
    """A reservation that the provider would sell now.

    ``total`` is for all nodes and the whole period, in ``currency``; None where the
    provider states no price. ``upfront`` is the part of it that is due at the purchase.
    ``id`` is the provider's own and may be gone a minute later.
    """

    id: str
    instance_type: str
    region: str
    zone: str
    count: int
    start: datetime
    end: datetime
    total: Decimal | None = None
    upfront: Decimal | None = None
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Reservation:
    """Capacity that the account holds or has asked for, as the provider sees it now.

    ``state`` is one of ``pending`` (asked for, not granted), ``scheduled`` (granted, not
    begun), ``active``, ``ended`` and ``failed``; ``raw_state`` is the provider's own word.
    ``cutoff`` is how long before ``end`` the provider begins to end machines.
    """

    id: str
    instance_type: str
    region: str
    zone: str
    count: int
    state: str
    raw_state: str = ""
    start: datetime | None = None
    end: datetime | None = None
    cutoff: timedelta = timedelta()
    used: int | None = None
    total: Decimal | None = None
    currency: str = "USD"
    tags: Mapping[str, str] = field(default_factory=dict)


class CapacitySeller(Protocol):
    """What an adapter with :attr:`Capability.BUYABLE_CAPACITY` offers beside :class:`Provider`."""

    def capacity_offerings(self, request: CapacityRequest) -> Sequence[CapacityOffering]:
        """Return what could be bought now, the cheapest first; buys nothing."""

    def buy_capacity(
        self, offering: CapacityOffering, *, client_token: str, tags: Mapping[str, str]
    ) -> Reservation:
        """Buy one offering, in one call that is never repeated here; it costs real money.

        ``client_token`` is also put in :data:`TAG_TOKEN`, so that :meth:`reservations` finds
        the purchase after a doubt.
        """

    def reservations(self, *, region: str) -> Sequence[Reservation]:
        """Return every reservation of the account in a region, ours or not, in any state still listed."""


@runtime_checkable
class Provider(Protocol):
    """One account at one cloud. Every method may raise any :class:`ProviderError`.

    Polls call it in threads; an adapter whose ``offers`` may run in several at once says how
    many in ``regions_at_once`` (a class attribute, 1 where it is missing).
    """

    kind: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]

    def test_connection(self) -> AccountIdentity:
        """Make one cheap authenticated call, and say whose credentials these are."""

    def regions(self) -> Sequence[RegionInfo]:
        """Return the account's regions; their zones may come with :meth:`offers` only."""

    def offers(self, region: str) -> Catalog:
        """Return every GPU type and offer of one region, completely or not at all."""

    def prepare_lease(self, request: LeaseNetworkRequest) -> LeaseNetwork:
        """Make or correct the lease's firewall and key."""

    def launch(self, group: LaunchGroup) -> Sequence[LaunchedInstance]:
        """Launch exactly ``group.count`` machines in one call, without retrying.

        Their order is the vendor's own; each id is the one that ``find`` and ``describe`` use.
        """

    def find(self, *, region: str, tag: str, value: str) -> Sequence[Machine]:
        """Return all machines with this tag, in any state that the provider still lists.

        An adapter that filters itself compares by :func:`~inventory.providers.naming.same`.
        """

    def describe(self, *, region: str, ids: Sequence[str]) -> Sequence[Machine]:
        """Return these machines. An id that the provider does not know is left out."""

    def reclaim(self, *, region: str, ids: Sequence[str]) -> None:
        """End these machines for good; one that is gone already is no error.

        With :attr:`Capability.ENDS_TOGETHER` they are all machines of one launch.
        """

    def remove_network(self, network_: LeaseNetwork, /) -> None:
        """Remove the lease's firewall and key; what is gone already is no error.

        Raises a retryable error while machines still use the firewall.
        """

    def list_owned(self, *, region: str) -> Sequence[OwnedResource]:
        """Return everything of ours that is not ended, found by our tags."""

    def remove(self, resource: OwnedResource) -> None:
        """Remove one orphan of any kind; one that is gone already is no error."""
