"""What the contract suite needs of the other side of an adapter.

One subclass per provider lives in ``tests/contract/<kind>.py`` and is registered in
``tests/contract/conftest.py``. The scenarios in ``test_contract_*.py`` go through the
public functions (a poll, the sweeps of provisioning) and use the counterpart only to set
the stage and to see what truly runs upstream. What a vendor has no notion of is said in
the attributes, and the scenario is then not collected for it: never skipped silently.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar


class Refusal(StrEnum):
    """How a vendor refuses a launch; each in the vendor's own words and status."""

    NO_CAPACITY = "no-capacity"
    QUOTA = "quota"
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"
    INTERNAL = "internal"  # a 5xx of which nobody knows whether it took effect


class Counterpart(ABC):
    """A provider that somebody else described, in the state that a scenario wants."""

    kind: ClassVar[str]
    region: ClassVar[str]
    zone: ClassVar[str]
    instance_type: ClassVar[str]  # one that the shipped catalog knows, and that the counterpart sells
    has_prices: ClassVar[bool] = True  # its catalog carries prices
    has_availability: ClassVar[bool] = True  # its catalog says what is in stock
    pages: ClassVar[bool] = True  # a listing comes in pages

    @abstractmethod
    def account_fields(self) -> Mapping[str, Any]:
        """Return ``credentials`` (plain values by field name) and ``options`` of an account on it."""

    @abstractmethod
    def wrong_credentials(self) -> Mapping[str, str]:
        """Return credentials that it refuses."""

    # --- the catalog

    @abstractmethod
    def set_price(self, price: Decimal) -> None:
        """Sell ``instance_type`` in ``region`` on demand at this price per hour of a whole instance."""

    @abstractmethod
    def break_catalog(self, how: str) -> Any:
        """Make the next poll meet ``how``: "html", "malformed", "half" (a later page or call fails),
        "repeat" (a page comes again), "throttled", "credentials", "silent" (the connection breaks).
        """

    # --- machines

    @abstractmethod
    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        """Refuse the next launches like this; nothing is launched."""

    @abstractmethod
    def lose_launch_answer(self, times: int = 1) -> None:
        """Launch, and lose the answer on the way back."""

    @abstractmethod
    def launch_calls(self) -> int:
        """Return how many launch requests arrived since the scenario began."""

    @abstractmethod
    def running(self) -> Mapping[str, Mapping[str, str]]:
        """Return the machines that truly cost money now: id as our adapter writes it -> our tags
        (as far as the vendor keeps them), read without the adapter.
        """

    @abstractmethod
    def finish_booting(self) -> None:
        """Let every machine that starts be up."""

    @abstractmethod
    def finish_ending(self) -> None:
        """Let every machine that is being ended be gone."""

    @abstractmethod
    def vanish(self, machine: str) -> None:
        """End a machine behind our back, as a vendor's maintenance or a preemption does."""

    @abstractmethod
    def add_stranger(self, tags: Mapping[str, str]) -> str:
        """Make a machine with these tags that no launch of ours made; return its id."""

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """Within, listings do not yet show what was just launched; for vendors that lag."""
        yield
