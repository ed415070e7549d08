"""Crusoe by a fake of ours: alone, and behind Crusoe's own document."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.fake_api import Reply
from tests.contract.fake_crusoe import (
    H100,
    KEY_ID,
    PROJECT,
    REFUSALS,
    RESERVATION,
    SECRET,
    FakeCrusoe,
    refused,
)
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

DOCUMENT = "crusoe/crusoe-v1-swagger2.json"
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "no-capacity",
    Refusal.QUOTA: "quota",
    Refusal.CREDENTIALS: "forbidden",
    Refusal.INTERNAL: "internal",
}
# The document has this answer for some calls only, so that it comes from the proxy in front.
THROTTLED = Reply({"code": "429", "message": "too_many_requests"}, 429, {"retry-after": "45"}).answer()


def answer(name: str) -> Answer:
    return refused(*REFUSALS[name]).answer()


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("/compute/vms/instances")


def is_types(request: Request) -> bool:
    return request.path.endswith("/compute/vms/types")


def without_base_path(document: dict[str, Any]) -> None:
    """Let Prism see the paths as our fake has them: it would look for them below /v1."""
    document.pop("basePath")


class CrusoeCounterpart(Counterpart):
    kind = "crusoe"
    region = "us-east1"
    zone = "us-east1-a"
    instance_type = H100
    reservation_id = RESERVATION
    has_prices = False
    pages = False  # the catalog has none
    lags = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(
        {ResourceKind.INSTANCE, ResourceKind.VOLUME, ResourceKind.NETWORK}
    )

    def __init__(self, fake: FakeCrusoe, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        fake = shared.once("crusoe", lambda: closing(FakeCrusoe()))
        with faulty(cls.front(fake, request)) as proxy:
            yield cls(fake, proxy)

    @classmethod
    def front(cls, fake: FakeCrusoe, request: pytest.FixtureRequest) -> str:
        """Return the address at which the fake is asked."""
        return fake.url

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"access_key_id": KEY_ID, "secret_key": SECRET},
            "options": {
                "endpoint_url": self.proxy.url,
                "project_id": PROJECT,
                "regions": [self.region],
                "image": "ubuntu22.04-nvidia-sxm-docker:latest",
                "ib_network": {self.zone: "36c0b0d9-8b68-4869-addb-227b06b64ee0"},
                "requests_per_second": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"access_key_id": KEY_ID, "secret_key": "c29tZWJvZHkgZWxzZSdzIHNlY3JldA"}

    def set_available(self, available: bool) -> None:
        self.fake.free[H100, self.zone] = 4 if available else 0

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_types)
            case Break.MALFORMED:
                plant(is_types, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.HALF:  # locations and capacities come, and no types
                plant(is_types, times=ALWAYS, answer=answer("internal"))
            case Break.THROTTLED:
                plant(is_types, times=ALWAYS, answer=THROTTLED)
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=answer("unauthorized"))
            case Break.SILENT:
                plant(is_types, times=ALWAYS, refuse=True)
            case Break.REPEAT:
                raise NotImplementedError

    def mend(self) -> None:
        self.proxy.faults.clear()

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        if how == Refusal.THROTTLED:
            self.proxy.plant(is_launch, times=times, answer=THROTTLED)
        else:
            self.fake.refuse.extend([REFUSED[how]] * times)

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        if how == Loss.SILENT:
            self.proxy.plant(is_launch, times=times, lose_answer=True)
        else:
            self.proxy.plant(is_launch, times=times, change=lambda *_: answer("internal"))

    def launch_calls(self) -> int:
        return self.proxy.count(is_launch)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {key: naming.tags_of(vm["name"]) for key, vm in self.fake.vms.items()}

    def finish_booting(self) -> None:
        for vm in self.fake.vms.values():
            if vm["state"] == "STATE_DEFINING":
                vm["state"] = "STATE_RUNNING"
        self.finish_operations()

    def finish_operations(self) -> None:
        for operation in self.fake.operations.values():
            if operation["state"] == "IN_PROGRESS":
                operation["state"] = "SUCCEEDED"

    def finish_ending(self) -> None:
        self.finish_operations()
        for key in [key for key, vm in self.fake.vms.items() if vm["state"] == "STATE_DELETING"]:
            del self.fake.vms[key]

    def vanish(self, machine: str) -> None:
        del self.fake.vms[machine]

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        name = naming.name_for(tags) if tags else "my-first-vm"
        match kind:
            case ResourceKind.INSTANCE:
                return str(self.fake.make_vm(name, state="STATE_RUNNING")["id"])
            case ResourceKind.VOLUME:
                return str(self.fake.make_disk(name, self.zone)["id"])
            case ResourceKind.NETWORK:
                return str(self.fake.make_network(f"{name}-{self.region}")["id"])
            case ResourceKind.ADDRESS | ResourceKind.KEY:
                raise NotImplementedError

    def owned(self, kind: ResourceKind) -> Collection[str]:
        match kind:
            case ResourceKind.INSTANCE:
                return list(self.fake.vms)
            case ResourceKind.VOLUME:
                return list(self.fake.disks)
            case ResourceKind.NETWORK:
                return list(self.fake.networks)
            case ResourceKind.ADDRESS | ResourceKind.KEY:
                raise NotImplementedError

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None


class CrusoeByDocument(CrusoeCounterpart):
    """The same, with Crusoe's document between the adapter and the fake."""

    variant = "document"

    @classmethod
    def front(cls, fake: FakeCrusoe, request: pytest.FixtureRequest) -> str:
        prism = request.getfixturevalue("prism")
        return str(prism(vendor_document(DOCUMENT), fake.url, rewrite=without_base_path))
