"""Nebius by a fake of ours, which speaks gRPC with the messages of Nebius's official SDK."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared

if TYPE_CHECKING:
    from tests.contract.fake_nebius import FakeNebius

ALWAYS = 1_000
CREATE = "InstanceService/Create"
PLATFORMS = "PlatformService/List"
HTML = b"<!doctype html><html><title>502 Bad Gateway</title></html>"
REFUSED = {
    Refusal.NO_CAPACITY: "no-capacity",
    Refusal.QUOTA: "quota",
    Refusal.THROTTLED: "throttled",
    Refusal.CREDENTIALS: "credentials",
    Refusal.INTERNAL: "internal",
}


class NebiusCounterpart(Counterpart):
    kind = "nebius"
    region = "eu-north1"
    zone = "eu-north1"
    instance_type = "gpu-h100-sxm_8gpu-128vcpu-1600gb"
    reservation_id = "capacityblockgroup-e00ours"
    lags = True
    retry_after = None
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(
        {ResourceKind.INSTANCE, ResourceKind.VOLUME, ResourceKind.NETWORK}
    )

    def __init__(self, fake: FakeNebius) -> None:
        self.fake = fake
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        from tests.contract.fake_nebius import FakeNebius

        fake = shared.once("nebius", lambda: closing(FakeNebius()))
        with fake.connected():
            yield cls(fake)

    def account_fields(self) -> Mapping[str, Any]:
        from tests.contract import fake_nebius

        return {
            "credentials": {"token": fake_nebius.TOKEN},
            "options": {
                "projects": {self.region: fake_nebius.PROJECT},
                "tenant_id": fake_nebius.TENANT,
                "requests_per_second": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"token": "somebody-elses-token-0000"}

    def set_price(self, price: Decimal) -> None:
        platform, _, preset = self.instance_type.partition("_")
        self.fake.prices[platform, preset] = str(price)

    def set_available(self, available: bool) -> None:
        platform, _, preset = self.instance_type.partition("_")
        self.fake.advice = [self.fake.make_advice(platform, preset, 4 if available else 0)]

    def break_catalog(self, how: Break) -> None:
        plant = self.fake.plant
        match how:
            case Break.HTML:
                plant(PLATFORMS, times=ALWAYS, payload=HTML)
            case Break.MALFORMED:
                plant(PLATFORMS, times=ALWAYS, payload=b"\x0a\xff\x01half")
            case Break.HALF:  # the platforms come, and the prices do not
                plant("CalculatorService", times=ALWAYS, refuse="internal")
            case Break.REPEAT:
                self.fake.repeats = True
            case Break.THROTTLED:
                plant(PLATFORMS, times=ALWAYS, refuse="throttled")
            case Break.CREDENTIALS:
                plant("", times=ALWAYS, refuse="unauthenticated")
            case Break.SILENT:
                plant("", times=ALWAYS, refuse="silent")

    def mend(self) -> None:
        self.fake.faults.clear()
        self.fake.repeats = False

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        self.fake.plant(CREATE, times=times, refuse=REFUSED[how])

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        self.fake.plant(CREATE, times=times, lose="silent" if how == Loss.SILENT else "internal")

    def launch_calls(self) -> int:
        return self.fake.count(CREATE)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {
            id_: naming.from_labels(dict(item.metadata.labels)) for id_, item in self.fake.instances.items()
        }

    def finish_booting(self) -> None:
        from tests.contract.fake_nebius import State

        for item in self.fake.instances.values():
            if item.status.state == State.CREATING:
                item.status.state = State.RUNNING

    def finish_ending(self) -> None:
        from tests.contract.fake_nebius import State

        for id_, item in list(self.fake.instances.items()):
            if item.status.state == State.DELETING:
                self.fake.end(id_)

    def vanish(self, machine: str) -> None:
        self.fake.end(machine)

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        from tests.contract.fake_nebius import ResourceMetadata, State, stranger_spec

        name = naming.name_for(tags, limit=63) if tags else "training"
        labels = naming.to_labels(tags)
        made: Any
        match kind:
            case ResourceKind.INSTANCE:
                metadata = ResourceMetadata(name=name, labels=labels)
                made = self.fake.make_instance(metadata, stranger_spec(), State.RUNNING)
            case ResourceKind.VOLUME:
                made = self.fake.make_disk(name, labels)
            case ResourceKind.NETWORK:
                made = self.fake.make_group(name, labels)
            case ResourceKind.ADDRESS | ResourceKind.KEY:
                raise NotImplementedError
        return str(made.metadata.id)

    def owned(self, kind: ResourceKind) -> Collection[str]:
        match kind:
            case ResourceKind.INSTANCE:
                return list(self.fake.instances)
            case ResourceKind.VOLUME:
                return list(self.fake.disks)
            case ResourceKind.NETWORK:
                return list(self.fake.groups)
            case ResourceKind.ADDRESS | ResourceKind.KEY:
                raise NotImplementedError

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None
