"""What the contract suite needs of the other side of an adapter.

One subclass per provider lives in ``tests/contract/<kind>.py`` (``conftest.MODULES`` names
the file; nothing else is registered). The scenarios in ``test_contract_*.py`` go through
the public functions (a poll, the sweeps of provisioning) and use the counterpart only to
set the stage and to see what truly runs upstream. What a vendor has no notion of is said
in the class attributes, and the scenario is then not collected for it: never skipped
silently.

The attributes are read while tests are collected, so the module imports no SDK at its
top: do that inside of methods. A kind with several counterparts (a fake, and the same
behind the vendor's document) has one concrete subclass each, told apart by ``variant``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar, cast

import pytest

from inventory.providers.base import ResourceKind

T = TypeVar("T")


class Refusal(StrEnum):
    """How a vendor refuses a launch; each in the vendor's own words and status."""

    NO_CAPACITY = "no-capacity"
    QUOTA = "quota"
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"
    INTERNAL = "internal"  # a 5xx of which nobody knows whether it took effect


class Loss(StrEnum):
    """How the answer of a launch that took effect is lost."""

    SILENT = "silent"  # the connection just ends
    INTERNAL = "internal"  # the vendor, or a proxy in front of it, answers with a 5xx


class Break(StrEnum):
    """What a poll meets."""

    HTML = "html"  # a page of a proxy, with status 200
    MALFORMED = "malformed"  # the vendor's format, cut off or with wrong types
    HALF = "half"  # a later page, or a later call of several, fails
    REPEAT = "repeat"  # a page comes again (only where ``pages``)
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"  # refused from now on
    SILENT = "silent"  # the connection ends without an answer


class Shared:
    """What may live as long as the test session: a server that takes long to start."""

    def __init__(self) -> None:
        self._stack, self._known = ExitStack(), dict[str, object]()

    def once(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        """Return what ``make()`` gives, made at the first call with this name and ended with the session."""
        if name not in self._known:
            self._known[name] = self._stack.enter_context(make())
        return cast(T, self._known[name])

    def close(self) -> None:
        self._stack.close()


class Counterpart(ABC):
    """A provider that somebody else described, in the state that a scenario wants.

    ``break_catalog``, ``refuse_launches`` and ``lose_launch_answer`` outlast the adapter's
    own repetitions: reads are repeated, a launch is not.
    """

    kind: ClassVar[str]
    variant: ClassVar[str] = ""  # the test id is ``kind`` or ``kind-variant``
    region: ClassVar[str]  # the account is set up for this one only
    zone: ClassVar[str]
    instance_type: ClassVar[str]  # one that the counterpart sells
    gpus: ClassVar[int] = 8  # how many it has; used where the shipped catalog does not know the type
    reservation_id: ClassVar[str] = ""  # of the commitment; needed with COMMITTED_CAPACITY

    has_prices: ClassVar[bool] = True  # its catalog carries prices
    has_availability: ClassVar[bool] = True  # its catalog says what is in stock
    pages: ClassVar[bool] = True  # a listing comes in pages
    lags: ClassVar[bool] = False  # ``lagging`` does something
    vanishing: ClassVar[bool] = True  # a machine can end behind our back
    sells_capacity: ClassVar[bool] = False  # reservations can be bought from tomorrow on, by API
    breaks: ClassVar[frozenset[Break]] = frozenset(Break)
    refusals: ClassVar[frozenset[Refusal]] = frozenset(Refusal)
    losses: ClassVar[frozenset[Loss]] = frozenset(Loss)
    # What it says with Refusal.THROTTLED and Break.THROTTLED, in seconds; None: it says nothing.
    retry_after: ClassVar[float | None] = 45.0
    # What ``add_stranger`` and ``owned`` know beside machines.
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset({ResourceKind.INSTANCE})

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        """Give a counterpart for one test, with nothing in it, and end it afterwards.

        ``shared.once`` keeps what takes long to start; ``request.getfixturevalue`` reaches
        fixtures, for example ``moto_ec2``.
        """
        counterpart = cls()
        try:
            yield counterpart
        finally:
            counterpart.close()

    def close(self) -> None:
        """End what this counterpart started for itself."""
        return

    @classmethod
    def each(cls, attribute: str) -> Collection[StrEnum]:
        """Return the values of ``breaks``, ``losses`` or ``kinds`` that this counterpart can do."""
        found: Collection[StrEnum] = getattr(cls, attribute)
        return found if cls.pages else [value for value in found if value != Break.REPEAT]

    @abstractmethod
    def account_fields(self) -> Mapping[str, Any]:
        """Return ``credentials`` (plain values by field name) and ``options`` of an account on it.

        Further keys are fields of ProviderAccount. The delivery probe is PROVIDER_STATUS.
        """

    @abstractmethod
    def wrong_credentials(self) -> Mapping[str, str]:
        """Return credentials that it refuses."""

    # --- the catalog

    def set_price(self, price: Decimal) -> None:
        """Sell ``instance_type`` in ``region`` on demand at this price per hour of a whole instance."""
        raise NotImplementedError

    def set_available(self, available: bool) -> None:
        """Have ``instance_type`` in stock in ``region``, or sold out."""
        raise NotImplementedError

    @abstractmethod
    def break_catalog(self, how: Break) -> None:
        """Let every poll meet ``how`` until :meth:`mend`; launches need not work meanwhile."""

    @abstractmethod
    def mend(self) -> None:
        """Undo :meth:`break_catalog`: the catalog is what it was before."""

    # --- machines

    @abstractmethod
    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        """Refuse the next launches like this; nothing is launched."""

    @abstractmethod
    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        """Launch, and lose the answer on the way back."""

    @abstractmethod
    def launch_calls(self) -> int:
        """Return how many launch requests arrived since the scenario began."""

    @abstractmethod
    def running(self) -> Mapping[str, Mapping[str, str]]:
        """Return the machines that cost money for a tenant now: id as our adapter writes it -> our tags.

        Read without the adapter, those that start and end included. The tags are what the
        vendor keeps of them, read back by :mod:`inventory.providers.naming` from names and labels.
        """

    @abstractmethod
    def finish_booting(self) -> None:
        """Let every machine that starts be up."""

    @abstractmethod
    def finish_ending(self) -> None:
        """Let every machine that is being ended be gone."""

    def vanish(self, machine: str) -> None:
        """End a machine behind our back, as a vendor's maintenance or a preemption does."""
        raise NotImplementedError

    @abstractmethod
    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        """Make something with these tags that no call of ours made; return its id as our adapter writes it.

        A network or a key has :data:`~inventory.providers.base.TAG_LEASE` and no token. Without
        tags it is somebody else's: it has an ordinary name.
        """

    def owned(self, kind: ResourceKind) -> Collection[str]:
        """Return the ids of everything of this kind that exists, ours or not, read without the adapter."""
        if kind == ResourceKind.INSTANCE:
            return list(self.running())
        raise NotImplementedError

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Within, listings do not yet show what was just launched; for vendors that lag."""
        yield

    # --- reserved capacity, where ``sells_capacity``

    def refuse_purchases(self, how: Refusal, times: int = 1) -> None:
        """Refuse the next purchases of a reservation like this; nothing is bought."""
        raise NotImplementedError

    def lose_purchase_answer(self) -> None:
        """Sell a reservation, and lose the answer on the way back."""
        raise NotImplementedError

    def purchase_calls(self) -> int:
        """Return how many requests to buy a reservation arrived since the scenario began."""
        raise NotImplementedError

    def reservations(self) -> Mapping[str, Mapping[str, str]]:
        """Return what was sold: the id for the commitment -> our tags."""
        raise NotImplementedError
