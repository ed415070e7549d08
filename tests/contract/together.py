"""Together's clusters by a fake of ours: alone, and behind Together's own document."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.fake_together import KEY, REFUSALS, FakeTogether, refused
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

DOCUMENT = "together/together-openapi-full.yaml"
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "capacity",
    Refusal.QUOTA: "quota",
    Refusal.THROTTLED: "throttled",
    Refusal.CREDENTIALS: "forbidden",
    Refusal.INTERNAL: "internal",
}


def answer(name: str) -> Answer:
    return refused(*REFUSALS[name]).answer()


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.method == "POST" and request.path.endswith("/compute/clusters")


def is_catalog(request: Request) -> bool:
    return request.path.endswith("/compute/regions")


class TogetherCounterpart(Counterpart):
    kind = "together"
    region = "us-central-8"
    zone = "us-central-8"
    instance_type = "H100_SXM"
    reservation_id = "pool-0f3a"
    has_prices = False
    has_availability = False
    pages = False
    lags = True
    # A region's catalog is one answer: there is no half of it.
    breaks: ClassVar[frozenset[Break]] = frozenset(Break) - {Break.HALF}
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset({ResourceKind.INSTANCE, ResourceKind.VOLUME})

    def __init__(self, fake: FakeTogether, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        fake = shared.once("together", lambda: closing(FakeTogether()))
        with faulty(cls.front(fake, request)) as proxy:
            yield cls(fake, proxy)

    @classmethod
    def front(cls, fake: FakeTogether, request: pytest.FixtureRequest) -> str:
        """Return the address at which the fake is asked."""
        return fake.url

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"api_key": KEY},
            "options": {
                "endpoint_url": self.proxy.url,
                "regions": [self.region],
                "requests_per_second": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"api_key": "tgp_v1_somebody-elses"}

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_catalog)
            case Break.MALFORMED:
                plant(is_catalog, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.THROTTLED:
                plant(is_catalog, times=ALWAYS, answer=answer("throttled"))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=answer("unauthorized"))
            case Break.SILENT:
                plant(is_catalog, times=ALWAYS, refuse=True)
            case Break.HALF | Break.REPEAT:
                raise NotImplementedError

    def mend(self) -> None:
        self.proxy.faults.clear()

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
        return {
            f"{each['cluster_id']}/{index}": naming.tags_of(each["cluster_name"])
            for each in self.fake.clusters.values()
            for index in range(each["num_gpus"] // 8)
        }

    def finish_booting(self) -> None:
        for each in self.fake.clusters.values():
            if each["status"] == "WaitingForControlPlaneNodes":
                self.fake.boot(each)

    def finish_ending(self) -> None:
        for each in list(self.fake.clusters.values()):
            if each["status"] == "Deleting":
                self.fake.end(each["cluster_id"])

    def vanish(self, machine: str) -> None:
        self.fake.end(machine.partition("/")[0])

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        if kind == ResourceKind.VOLUME:
            name = f"{naming.name_for(tags, limit=32)}-{self.region}" if tags else "training-data"
            return str(self.fake.make_volume(name)["volume_id"])
        cluster = self.fake.make_cluster(naming.name_for(tags, limit=50) if tags else "training")
        self.fake.boot(cluster)
        return f"{cluster['cluster_id']}/0"

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return list(self.fake.volumes if kind == ResourceKind.VOLUME else self.running())

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None


class TogetherByDocument(TogetherCounterpart):
    """The same, with Together's document between the adapter and the fake."""

    variant = "document"

    @classmethod
    def front(cls, fake: FakeTogether, request: pytest.FixtureRequest) -> str:
        prism = request.getfixturevalue("prism")
        return str(prism(vendor_document(DOCUMENT), fake.url))
