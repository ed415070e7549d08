"""RunPod by a fake of ours: alone, and behind RunPod's own document."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.fake_runpod import H100, KEY, REFUSALS, FakeRunPod, refused
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

DOCUMENT = "runpod/runpod-rest-v2-openapi.json"
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "no-capacity",
    Refusal.QUOTA: "balance",
    Refusal.THROTTLED: "throttled",
    Refusal.CREDENTIALS: "forbidden",
    Refusal.INTERNAL: "internal",
}


def answer(name: str) -> Answer:
    return refused(*REFUSALS[name]).answer()


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.method == "POST" and request.path == "/v2/pods"


def is_gpus(request: Request) -> bool:
    return request.path.partition("?")[0].endswith("/catalog/gpus")


class RunPodCounterpart(Counterpart):
    kind = "runpod"
    region = "US-KS-2"
    zone = "US-KS-2"
    instance_type = f"{H100} x8"
    pages = False
    lags = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset({ResourceKind.INSTANCE, ResourceKind.VOLUME})

    def __init__(self, fake: FakeRunPod, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        fake = shared.once("runpod", lambda: closing(FakeRunPod()))
        with faulty(cls.front(fake, request)) as proxy:
            yield cls(fake, proxy)

    @classmethod
    def front(cls, fake: FakeRunPod, request: pytest.FixtureRequest) -> str:
        """Return the address at which the fake is asked."""
        return fake.url

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"api_key": KEY},
            "options": {
                "endpoint_url": self.proxy.url,
                "regions": [self.region],
                "gpus_per_pod": [8],
                "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
                "user": "root",
                "requests_per_second": 10_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"api_key": "rpa_SOMEBODYELSES0000000"}

    def set_price(self, price: Decimal) -> None:
        self.fake.gpus[H100]["price"]["secure"] = float(price / 8)

    def set_available(self, available: bool) -> None:
        self.fake.stock[H100] = {self.region: 8 if available else 4}

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_gpus)
            case Break.MALFORMED:
                plant(is_gpus, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.HALF:  # the data centers come, and no GPUs
                plant(is_gpus, times=ALWAYS, answer=answer("internal"))
            case Break.THROTTLED:
                plant(is_gpus, times=ALWAYS, answer=answer("throttled"))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=answer("unauthorized"))
            case Break.SILENT:
                plant(is_gpus, times=ALWAYS, refuse=True)

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
        return {key: naming.tags_of(pod["name"].partition(".")[0]) for key, pod in self.fake.pods.items()}

    def finish_booting(self) -> None:
        for pod in self.fake.pods.values():
            if pod["status"] == "PROVISIONING":
                self.fake.start(pod, self.region)

    def finish_ending(self) -> None:
        """Do nothing: a pod is gone with its deletion."""

    def vanish(self, machine: str) -> None:
        del self.fake.pods[machine]

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        name = f"{naming.name_for(tags)}.{self.region}" if tags else "my-training-pod"
        if kind == ResourceKind.VOLUME:
            return str(self.fake.make_volume(name, self.region)["id"])
        pod = self.fake.make_pod(name)
        self.fake.start(pod, self.region)
        return str(pod["id"])

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return list(self.fake.volumes if kind == ResourceKind.VOLUME else self.fake.pods)

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None


class RunPodByDocument(RunPodCounterpart):
    """The same, with RunPod's document between the adapter and the fake."""

    variant = "document"

    @classmethod
    def front(cls, fake: FakeRunPod, request: pytest.FixtureRequest) -> str:
        prism = request.getfixturevalue("prism")
        return str(prism(vendor_document(DOCUMENT), fake.url))
