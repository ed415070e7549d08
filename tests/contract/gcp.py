"""Google Cloud by a fake of ours: alone, and held to Google's own discovery documents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

if TYPE_CHECKING:
    from tests.contract.discovery import Discovery
    from tests.contract.fake_gcp import FakeGcp

DOCUMENTS = ("gcp/compute.v1.discovery.trimmed.json", "gcp/cloudbilling.v1.json")
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "stockout",
    Refusal.QUOTA: "quota",
    Refusal.THROTTLED: "throttled",
    Refusal.CREDENTIALS: "forbidden",
    Refusal.INTERNAL: "internal",
}


def answer(name: str) -> Answer:
    from tests.contract.gcp_data import REFUSALS, refused

    return refused(*REFUSALS[name]).answer()


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.method == "POST" and request.path.partition("?")[0].endswith("/instances")


def is_purchase(request: Request) -> bool:
    return request.method == "POST" and request.path.partition("?")[0].endswith("/futureReservations")


def is_types(request: Request) -> bool:
    return "/machineTypes" in request.path


def is_later_page(request: Request) -> bool:
    return is_types(request) and "pageToken=" in request.path


class GcpCounterpart(Counterpart):
    kind = "gcp"
    region = "us-central1"
    zone = "us-central1-a"
    instance_type = "a2-highgpu-8g"
    reservation_id = "sublet-a2"
    # Advice about spot machines is all that Google says; launches find out.
    has_availability = False
    retry_after = None
    sells_capacity = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(ResourceKind) - {ResourceKind.KEY}

    def __init__(self, fake: FakeGcp, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        self._strangers = 0
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        from tests.contract.fake_gcp import FakeGcp

        fake = shared.once("gcp", lambda: closing(FakeGcp()))
        documents = cls.documents(shared)
        with faulty(fake.url) as proxy:
            counterpart = cls(fake, proxy)
            fake.documents = documents
            yield counterpart
        if documents is not None:
            problems, documents.problems = documents.problems, []
            if problems:
                pytest.fail("Google’s documents do not allow this:\n" + "\n".join(problems))

    @classmethod
    def documents(cls, shared: Shared) -> Discovery | None:
        return None

    def account_fields(self) -> Mapping[str, Any]:
        from tests.contract.gcp_data import key_file, keys

        return {
            "credentials": {"service_account_key": key_file(keys()[0][0], f"{self.proxy.url}/token")},
            "options": {
                "endpoint_url": self.proxy.url,
                "billing_url": self.proxy.url,
                "regions": [self.region],
                "image": "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64",
                "calendar_prices": {self.instance_type: "20.00"},
                "requests_per_second": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        from tests.contract.gcp_data import key_file, keys

        return {"service_account_key": key_file(keys()[1], f"{self.proxy.url}/token")}

    # --- the catalog

    def set_price(self, price: Decimal) -> None:
        from tests.contract.gcp_data import GPU, sku

        self.fake.skus = [each for each in self.fake.skus if each["description"] != GPU]
        # Cores and memory of the 8 GPUs are a part of it.
        rest = 96 * Decimal("0.031611") + 680 * Decimal("0.004237")
        gpu = (price - rest) / 8
        self.fake.skus.append(sku(GPU, f"{gpu:.9f}"))

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_types)
            case Break.MALFORMED:
                plant(is_types, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.HALF:
                plant(is_later_page, times=ALWAYS, answer=answer("internal"))
            case Break.REPEAT:
                plant(is_types, times=ALWAYS, change=lambda _, good: same_page(good))
            case Break.THROTTLED:
                plant(is_types, times=ALWAYS, answer=answer("throttled"))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=answer("unauthorized"))
            case Break.SILENT:
                plant(is_types, times=ALWAYS, refuse=True)

    def mend(self) -> None:
        self.proxy.faults.clear()

    # --- machines

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        self.fake.refuse.extend([REFUSED[how]] * times)

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        if how == Loss.SILENT:
            self.proxy.plant(is_launch, times=times, lose_answer=True)
        else:
            self.proxy.plant(is_launch, times=times, change=lambda *_: answer("internal"))

    def launch_calls(self) -> int:
        return self.proxy.count(is_launch)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {key: naming.from_labels(each.get("labels", {})) for key, each in self.fake.instances.items()}

    def finish_booting(self) -> None:
        for key, each in self.fake.instances.items():
            if each["status"] == "PROVISIONING":
                each["status"] = "RUNNING"
                self.fake.finish_operations(key)

    def finish_ending(self) -> None:
        for key, each in list(self.fake.instances.items()):
            if each["status"] == "STOPPING":
                self.fake.end(key)

    def vanish(self, machine: str) -> None:
        self.fake.end(machine, "compute.instances.preempted")

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        from tests.contract.gcp_data import CREATED

        self._strangers += 1
        labels = naming.to_labels(tags)
        name = naming.name_for(tags, limit=60) if tags else f"training-{self._strangers}"
        key = f"{self.zone}/{name}"
        match kind:
            case ResourceKind.INSTANCE:
                self.fake.make_instance(self.zone, name, status="RUNNING", labels=labels)
            case ResourceKind.VOLUME:
                self.fake.make_disk(self.zone, name, labels)
            case ResourceKind.ADDRESS:
                key = f"{self.region}/{name}"
                self.fake.make_address(self.region, name, labels)
            case ResourceKind.NETWORK:
                key = name
                self.fake.firewalls[f"{name}-1"] = {
                    "name": f"{name}-1",
                    "description": f"A lease of Sublet in {self.region}",
                    "creationTimestamp": CREATED,
                }
            case ResourceKind.KEY:
                raise NotImplementedError
        return key

    def owned(self, kind: ResourceKind) -> Collection[str]:
        match kind:
            case ResourceKind.INSTANCE:
                return list(self.running())
            case ResourceKind.VOLUME:
                return list(self.fake.disks)
            case ResourceKind.ADDRESS:
                return list(self.fake.addresses)
            case ResourceKind.NETWORK:
                return {name.rpartition("-")[0] for name in self.fake.firewalls}
            case ResourceKind.KEY:
                raise NotImplementedError

    # --- reserved capacity

    def refuse_purchases(self, how: Refusal, times: int = 1) -> None:
        self.fake.refuse.extend([REFUSED[how]] * times)

    def lose_purchase_answer(self) -> None:
        self.proxy.plant(is_purchase, lose_answer=True)

    def purchase_calls(self) -> int:
        return self.proxy.count(is_purchase)

    def reservations(self) -> Mapping[str, Mapping[str, str]]:
        return {
            each["reservationName"]: dict(word.split("=") for word in each["description"].split())
            for each in self.fake.future.values()
        }


class GcpByDocument(GcpCounterpart):
    """The same, with each request and each answer of the fake held to Google's documents."""

    variant = "document"

    @classmethod
    def documents(cls, shared: Shared) -> Discovery | None:
        from tests.contract.discovery import Discovery

        paths = [vendor_document(path) for path in DOCUMENTS]
        return shared.once("gcp documents", lambda: nullcontext(Discovery(*paths)))


def same_page(good: Answer) -> Answer:
    """Say after each page that the second comes next."""
    document = {**json.loads(good.body), "nextPageToken": "2"}
    return Answer(good.status, json.dumps(document).encode(), good.headers)
