"""Lambda by a fake of ours: alone, and behind Lambda's own document."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.fake_lambda import KEY, REFUSALS, FakeLambda, refused
from tests.contract.faults import Answer, FaultyProxy, Request, faulty
from tests.contract.prism import vendor_document

DOCUMENT = "lambda/lambda-cloud-openapi-1.10.0.json"
ALWAYS = 1_000
REFUSED = {
    Refusal.NO_CAPACITY: "insufficient-capacity",
    Refusal.QUOTA: "quota",
    Refusal.THROTTLED: "throttled",
    Refusal.CREDENTIALS: "inactive",
    Refusal.INTERNAL: "internal",
}


def answer(name: str) -> Answer:
    return refused(*REFUSALS[name]).answer()


def cut(good: Answer) -> Answer:
    return Answer(good.status, good.body[: len(good.body) // 2], good.headers)


def is_launch(request: Request) -> bool:
    return request.path.endswith("/instance-operations/launch")


def is_types(request: Request) -> bool:
    return request.path.endswith("/instance-types")


class LambdaCounterpart(Counterpart):
    kind = "lambda"
    region = "us-west-1"
    zone = "us-west-1"
    instance_type = "gpu_8x_h100_sxm5"
    pages = False
    lags = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(ResourceKind) - {ResourceKind.ADDRESS}

    def __init__(self, fake: FakeLambda, proxy: FaultyProxy) -> None:
        self.fake, self.proxy = fake, proxy
        fake.reset()

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        fake = shared.once("lambda", lambda: closing(FakeLambda()))
        with faulty(cls.front(fake, request)) as proxy:
            yield cls(fake, proxy)

    @classmethod
    def front(cls, fake: FakeLambda, request: pytest.FixtureRequest) -> str:
        """Return the address at which the fake is asked."""
        return fake.url

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"api_key": KEY},
            "options": {
                "endpoint_url": self.proxy.url,
                "regions": [self.region],
                "requests_per_second": 10_000,
                "launches_per_minute": 100_000,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"api_key": "secret_somebody-elses_0000"}

    def set_price(self, price: Decimal) -> None:
        self.fake.types[self.instance_type]["price_cents_per_hour"] = int(price * 100)

    def set_available(self, available: bool) -> None:
        self.fake.stock[self.instance_type] = {self.region} if available else set()

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                self.proxy.answer_html(is_types)
            case Break.MALFORMED:
                plant(is_types, times=ALWAYS, change=lambda _, good: cut(good))
            case Break.HALF:  # the regions come, and nothing after them
                plant(is_types, times=ALWAYS, answer=answer("internal"))
            case Break.THROTTLED:
                plant(is_types, times=ALWAYS, answer=answer("throttled"))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=answer("unauthorized"))
            case Break.SILENT:
                plant(is_types, times=ALWAYS, refuse=True)

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
            each["id"]: {tag["key"]: tag["value"] for tag in each["tags"]}
            for each in self.fake.instances.values()
        }

    def finish_booting(self) -> None:
        for each in self.fake.instances.values():
            if each["status"] == "booting":
                each["status"] = "active"

    def finish_ending(self) -> None:
        for each in list(self.fake.instances.values()):
            if each["status"] == "terminating":
                self.fake.ended[each["id"]] = {**each, "status": "terminated"}
                del self.fake.instances[each["id"]]

    def vanish(self, machine: str) -> None:
        del self.fake.instances[machine]

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        name = naming.name_for(tags, limit=60) if tags else "training"
        match kind:
            case ResourceKind.INSTANCE:
                made = self.fake.make_instance(name, dict(tags), status="active")
            case ResourceKind.VOLUME:
                made = self.fake.make_filesystem(name, self.region)
            case ResourceKind.NETWORK:
                made = self.fake.make_ruleset(name, self.region, [])
            case ResourceKind.KEY:
                return str(self.fake.make_key(f"{name}.{self.region}", "ssh-ed25519 AAAA")["name"])
            case ResourceKind.ADDRESS:
                raise NotImplementedError
        return str(made["id"])

    def owned(self, kind: ResourceKind) -> Collection[str]:
        match kind:
            case ResourceKind.INSTANCE:
                return list(self.running())
            case ResourceKind.VOLUME:
                return list(self.fake.filesystems)
            case ResourceKind.NETWORK:
                return list(self.fake.rulesets)
            case ResourceKind.KEY:
                return [key["name"] for key in self.fake.keys.values()]
            case ResourceKind.ADDRESS:
                raise NotImplementedError

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.fake.unlisted = set()
        yield
        self.fake.unlisted = None


class LambdaByDocument(LambdaCounterpart):
    """The same, with Lambda's document between the adapter and the fake."""

    variant = "document"

    @classmethod
    def front(cls, fake: FakeLambda, request: pytest.FixtureRequest) -> str:
        prism = request.getfixturevalue("prism")
        return str(prism(vendor_document(DOCUMENT), fake.url))
