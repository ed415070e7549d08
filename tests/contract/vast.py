"""Vast.ai by a fake of ours: alone, and behind Vast's own document."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.fake_vast import KEY, REFUSALS, FakeVast, host, refused
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

DOCUMENT = "vast/vast-openapi.yaml"
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "gone",
    Refusal.QUOTA: "credit",
    Refusal.THROTTLED: "frequent",
    Refusal.CREDENTIALS: "key",
}
# Vast throttles in plain text, and without Retry-After.
THROTTLED = Answer(
    429, b"API requests too frequent: endpoint threshold=1.0", {"content-type": "text/plain; charset=utf-8"}
)
INTERNAL = Answer(500, b"Internal Server Error", {"content-type": "text/plain"})


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.method == "PUT" and request.path.startswith("/api/v0/asks/")


def is_search(request: Request) -> bool:
    return request.path.startswith("/api/v0/bundles")


def is_bids(request: Request) -> bool:
    return is_search(request) and json.loads(request.body)["type"] == "bid"


class VastCounterpart(Counterpart):
    kind = "vast"
    region = "DE"
    zone = "DE"
    instance_type = "8x H100 SXM 80GB"
    pages = False  # its catalog has none
    lags = True
    retry_after = None
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset({ResourceKind.INSTANCE})

    def __init__(self, fake: FakeVast, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        fake = shared.once("vast", lambda: closing(FakeVast()))
        with faulty(cls.front(fake, request)) as proxy:
            yield cls(fake, proxy)

    @classmethod
    def front(cls, fake: FakeVast, request: pytest.FixtureRequest) -> str:
        """Return the address at which the fake is asked."""
        return fake.url

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"api_key": KEY},
            "options": {
                "endpoint_url": self.proxy.url,
                "regions": [self.region],
                "calls_factor": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"api_key": "somebody-elses-key-000"}

    def _sold(self) -> list[dict[str, Any]]:
        return [item for item in self.fake.hosts.values() if item["id"] < 200]

    def set_price(self, price: Decimal) -> None:
        for number, item in enumerate(self._sold()):
            item["dph_total"] = float(price) + number

    def set_available(self, available: bool) -> None:
        for item in self._sold():
            item["rentable"] = available

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_search)
            case Break.MALFORMED:
                plant(is_search, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.HALF:  # what is sold on demand comes, and no bids
                plant(is_bids, times=ALWAYS, answer=INTERNAL)
            case Break.THROTTLED:
                plant(is_search, times=ALWAYS, answer=THROTTLED)
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=refused("key").answer())
            case Break.SILENT:
                plant(is_search, times=ALWAYS, refuse=True)

    def mend(self) -> None:
        self.proxy.faults.clear()

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        if how == Refusal.INTERNAL:  # the document has none: it never passes
            self.proxy.plant(is_launch, times=times, answer=INTERNAL)
        else:
            assert REFUSED[how] in REFUSALS
            self.fake.refuse.extend([REFUSED[how]] * times)

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        if how == Loss.SILENT:
            self.proxy.plant(is_launch, times=times, lose_answer=True)
        else:
            self.proxy.plant(is_launch, times=times, change=lambda *_: INTERNAL)

    def launch_calls(self) -> int:
        return self.proxy.count(is_launch)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {
            str(number): naming.tags_of(str(each["label"] or "").rpartition(".")[0])
            for number, each in self.fake.instances.items()
        }

    def finish_booting(self) -> None:
        for each in self.fake.instances.values():
            if each["actual_status"] is None:
                self.fake.run(each)

    def finish_ending(self) -> None:
        """Do nothing: what is destroyed is gone at once."""

    def vanish(self, machine: str) -> None:
        del self.fake.instances[int(machine)]

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        label = f"{naming.name_for(tags)}.de" if tags else "ML Training Job 2025"
        made = self.fake.make_instance(label, host(999))
        self.fake.run(made)
        return str(made["id"])

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return list(self.running())

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None


class VastByDocument(VastCounterpart):
    """The same, with Vast's document between the adapter and the fake."""

    variant = "document"

    @classmethod
    def front(cls, fake: FakeVast, request: pytest.FixtureRequest) -> str:
        prism = request.getfixturevalue("prism")
        return str(prism(vendor_document(DOCUMENT), fake.url))
