"""Azure by our own stateful fake of its Resource Manager, whose documents follow Microsoft's recordings."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, ClassVar, Self

import pytest

from inventory.providers import registry
from inventory.providers.base import ResourceKind
from tests.contract import azure_arm
from tests.contract.azure_arm import GROUP, REGION, RESERVATION, SUBSCRIPTION, TYPE, Arm
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.faults import HTML, Answer, FaultyProxy, Request, faulty

ALWAYS = 1_000
IMAGE = "microsoft-dsvm:ubuntu-hpc:2204:latest"
CREDENTIALS = {
    "tenant_id": "11111111-2222-3333-4444-555555555555",
    "client_id": "66666666-7777-8888-9999-000000000000",
    "client_secret": "an-example-secret",
}
# Our resources' kinds at Azure; what the adapter calls an address is two of them there.
KINDS = {
    ResourceKind.INSTANCE: ("virtualmachines",),
    ResourceKind.VOLUME: ("disks",),
    ResourceKind.ADDRESS: ("publicipaddresses", "networkinterfaces"),
    ResourceKind.NETWORK: ("networksecuritygroups", "virtualnetworks", "applicationsecuritygroups"),
}
# https://learn.microsoft.com/en-us/azure/azure-resource-manager/troubleshooting/common-deployment-errors
REFUSALS = {
    Refusal.NO_CAPACITY: (409, "ZonalAllocationFailed", "Allocation failed. There is not enough capacity."),
    Refusal.QUOTA: (
        409,
        "OperationNotAllowed",
        "Operation could not be completed as it results in exceeding approved Total Regional Cores quota.",
    ),
    Refusal.THROTTLED: (429, "TooManyRequests", "The request is being throttled."),
    Refusal.CREDENTIALS: (
        403,
        "AuthorizationFailed",
        "The client does not have authorization to perform action 'Microsoft.Compute/virtualMachines/write'.",
    ),
    Refusal.INTERNAL: (500, "InternalServerError", "Encountered an internal server error."),
}


def refusal(how: Refusal) -> Answer:
    status, code, text = REFUSALS[how]
    headers = {"content-type": "application/json; charset=utf-8"}
    if how == Refusal.THROTTLED:
        headers["retry-after"] = f"{AzureCounterpart.retry_after:.0f}"
    return Answer(status, json.dumps({"error": {"code": code, "message": text}}).encode(), headers)


def is_launch(request: Request) -> bool:
    return request.method == "PUT" and "/virtualMachines/" in request.path


def is_catalog(request: Request) -> bool:
    return "/Microsoft.Compute/skus" in request.path


def is_later_page(request: Request) -> bool:
    return is_catalog(request) and "skiptoken" in request.path


class AzureCounterpart(Counterpart):
    kind = "azure"
    region = REGION
    zone = "1"
    instance_type = TYPE
    reservation_id = RESERVATION
    # It tells what the subscription is refused, and never what is in stock.
    has_availability = False
    lags = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(KINDS)

    def __init__(self, arm: Arm, proxy: FaultyProxy) -> None:
        from tests.contract.azure_login import token

        self.arm, self.proxy = arm, proxy
        arm.token, arm.public_url = token(CREDENTIALS), proxy.url
        self._strangers = 0

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        # The adapter itself would send no token to a counterpart without HTTPS.
        request.getfixturevalue("monkeypatch").setitem(
            registry.BUILT_IN, cls.kind, "tests.contract.azure_login.LocalAzure"
        )
        arm = Arm()
        try:
            with faulty(arm.url) as proxy:
                yield cls(arm, proxy)
        finally:
            arm.close()

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": CREDENTIALS,
            "options": {
                "subscription_id": SUBSCRIPTION,
                "resource_group": GROUP,
                "regions": [REGION],
                "image": IMAGE,
                "endpoint_url": self.proxy.url,
                "prices_url": self.proxy.url,
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {**CREDENTIALS, "client_secret": "a-revoked-secret"}

    # --- the catalog

    def set_price(self, price: Decimal) -> None:
        self.arm.prices[TYPE, ""] = float(price)

    def break_catalog(self, how: Break) -> None:
        plant = self.proxy.plant
        match how:
            case Break.HTML:
                plant(is_catalog, times=ALWAYS, answer=Answer(200, HTML, {"content-type": "text/html"}))
            case Break.MALFORMED:
                plant(is_catalog, times=ALWAYS, change=lambda _, answer: cut(answer))
            case Break.HALF:
                plant(is_later_page, times=ALWAYS, answer=refusal(Refusal.INTERNAL))
            case Break.REPEAT:
                plant(is_catalog, times=ALWAYS, change=lambda _, answer: self._same_page(answer))
            case Break.THROTTLED:
                plant(is_catalog, times=ALWAYS, answer=refusal(Refusal.THROTTLED))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=refusal(Refusal.CREDENTIALS))
            case Break.SILENT:
                plant(is_catalog, times=ALWAYS, refuse=True)

    def _same_page(self, answer: Answer) -> Answer:
        document = json.loads(answer.body)
        path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/skus"
        query = f"api-version=2021-07-01&$skiptoken=2&$filter=location%20eq%20'{REGION}'"
        document["nextLink"] = f"{self.proxy.url}{path}?{query}"
        return Answer(answer.status, json.dumps(document).encode(), answer.headers)

    def mend(self) -> None:
        self.proxy.faults.clear()

    # --- machines

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        self.proxy.plant(is_launch, times=times, answer=refusal(how))

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        if how == Loss.SILENT:
            self.proxy.plant(is_launch, times=times, lose_answer=True)
        else:
            self.proxy.plant(is_launch, times=times, change=lambda *_: refusal(Refusal.INTERNAL))

    def launch_calls(self) -> int:
        return self.proxy.count(is_launch)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {
            item["name"]: item.get("tags", {})
            for (kind, _name), item in self.arm.resources.items()
            if kind == "virtualmachines"
        }

    def finish_booting(self) -> None:
        self.arm.finish_booting()

    def finish_ending(self) -> None:
        self.arm.finish_ending()

    def vanish(self, machine: str) -> None:
        self.arm.remove_machine(machine)

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        self._strangers += 1
        name = f"stranger-{self._strangers}"
        body: dict[str, Any] = {"location": REGION, "tags": dict(tags)}
        match kind:
            case ResourceKind.INSTANCE:
                self.arm.make_machine(name, {**body, "properties": stranger()})
                self.arm.finish_booting()
            case ResourceKind.VOLUME:
                self.arm.keep("disks", name, body, provider="Microsoft.Compute")
            case ResourceKind.ADDRESS:
                self.arm.keep("publicIPAddresses", name, body)
                return f"publicIPAddresses/{name}"
            case ResourceKind.NETWORK:
                self.arm.keep("networkSecurityGroups", name, body)
            case _:
                raise NotImplementedError
        return name

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return {
            f"{item['type'].partition('/')[2]}/{item['name']}"
            if kind == ResourceKind.ADDRESS
            else item["name"]
            for (each, _name), item in self.arm.resources.items()
            if each in KINDS[kind]
        }

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.arm.lag = True
        try:
            yield
        finally:
            self.arm.lag = False
            self.arm.hidden.clear()


def stranger() -> dict[str, Any]:
    return {
        "hardwareProfile": {"vmSize": TYPE},
        "storageProfile": {"osDisk": {"name": "of-a-stranger", "createOption": "FromImage"}},
        "networkProfile": {"networkInterfaces": []},
    }


def cut(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers)


assert len(azure_arm.SIZES) > azure_arm.PAGE, "the catalog comes in pages"
