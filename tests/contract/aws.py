"""EC2 by moto, an independent server, behind our proxy that says what moto never does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from typing import Any, ClassVar, Self

import pytest

from inventory.providers.base import ResourceKind
from tests.contract.aws_stand_ins import (
    INSTANCE_TYPE,
    REGION,
    RESERVATION,
    ZONE,
    Catalog,
    PriceList,
    Reservations,
    action,
    form,
    read_types,
)
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.faults import HTML, Answer, FaultyProxy, Request, faulty

IMAGE = "ami-12c6146b"  # one of moto's own
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPDzGVzT8LJ3KrQ1xZAf1Z3wVZXoJ5oYmAfv2xjLZ0v"
ALWAYS = 1_000

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
REFUSALS = {
    Refusal.NO_CAPACITY: (500, "InsufficientInstanceCapacity", "There is not enough capacity."),
    Refusal.QUOTA: (400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your limit."),
    Refusal.THROTTLED: (503, "RequestLimitExceeded", "Request limit exceeded."),
    Refusal.CREDENTIALS: (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
    Refusal.INTERNAL: (500, "InternalError", "An internal error has occurred."),
}


def error(status: int, code: str, text: str, **headers: str) -> Answer:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code>'
        f"<Message>{text}</Message></Error></Errors><RequestID>6f1b0a52</RequestID></Response>"
    )
    return Answer(status, body.encode(), {"content-type": "text/xml;charset=UTF-8", **headers})


def refusal(how: Refusal) -> Answer:
    status, code, text = REFUSALS[how]
    headers = {"retry-after": f"{AwsCounterpart.retry_after:.0f}"} if how == Refusal.THROTTLED else {}
    return error(status, code, text, **headers)


def is_launch(request: Request) -> bool:
    return action(request) == "RunInstances"


def is_purchase(request: Request) -> bool:
    return action(request) == "PurchaseCapacityBlock"


def is_catalog(request: Request) -> bool:
    return action(request) == "DescribeInstanceTypes"


def is_later_page(request: Request) -> bool:
    return is_catalog(request) and "NextToken" in form(request)


def has_wrong_key(request: Request) -> bool:
    return "Credential=AKIAREVOKED" in request.headers.get("authorization", "")


class AwsCounterpart(Counterpart):
    kind = "aws"
    region = REGION
    zone = ZONE
    instance_type = INSTANCE_TYPE
    reservation_id = RESERVATION
    has_availability = False
    sells_capacity = True
    kinds: ClassVar[frozenset[ResourceKind]] = frozenset(ResourceKind)

    def __init__(self, proxy: FaultyProxy, ec2: Any, catalog: Catalog) -> None:
        self.proxy, self.ec2 = proxy, ec2
        wrong_key = error(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
        proxy.stand_in(has_wrong_key, lambda _: wrong_key)
        proxy.stand_in(is_catalog, catalog.page)
        self.price_list = PriceList(catalog.names)
        self.market = Reservations()
        for name, stand_in in {
            "GetProducts": self.price_list.answer,
            "DescribeCapacityReservations": self.market.list,
            "DescribeCapacityBlockOfferings": self.market.offer,
            "PurchaseCapacityBlock": self.market.sell,
        }.items():
            proxy.stand_in(lambda request, name=name: action(request) == name, stand_in)

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        endpoint: str = request.getfixturevalue("moto_ec2")
        ec2 = shared.once("aws-console", lambda: console(endpoint))
        catalog = shared.once("aws-catalog", lambda: nullcontext(Catalog(read_types(endpoint))))
        with faulty(endpoint) as proxy:
            yield cls(proxy, ec2, catalog)

    def account_fields(self) -> Mapping[str, Any]:
        return {
            "credentials": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "an-example-secret"},
            "options": {
                "endpoint_url": self.proxy.url,
                "regions": [REGION],
                "image": IMAGE,
                "prices": "api",
                "buying": "api",
            },
        }

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"access_key_id": "AKIAREVOKED", "secret_access_key": "a-revoked-secret"}

    def set_price(self, price: Decimal) -> None:
        self.price_list.changed[self.instance_type] = price

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
                plant(is_catalog, times=ALWAYS, change=lambda _, answer: same_token(answer))
            case Break.THROTTLED:
                plant(is_catalog, times=ALWAYS, answer=refusal(Refusal.THROTTLED))
            case Break.CREDENTIALS:
                plant(lambda _: True, times=ALWAYS, answer=refusal(Refusal.CREDENTIALS))
            case Break.SILENT:
                plant(is_catalog, times=ALWAYS, refuse=True)

    def mend(self) -> None:
        self.proxy.faults.clear()

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
            machine["InstanceId"]: {tag["Key"]: tag["Value"] for tag in machine.get("Tags", [])}
            for reservation in self.ec2.describe_instances()["Reservations"]
            for machine in reservation["Instances"]
            if machine["State"]["Name"] != "terminated"
        }

    def finish_booting(self) -> None:
        """Do nothing: moto's machines are up at once."""

    def finish_ending(self) -> None:
        """Do nothing: moto's machines end at once."""

    def vanish(self, machine: str) -> None:
        self.ec2.terminate_instances(InstanceIds=[machine])

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]

        def tagged(resource: str) -> dict[str, Any]:
            return {"TagSpecifications": [{"ResourceType": resource, "Tags": pairs}]} if pairs else {}

        match kind:
            case ResourceKind.INSTANCE:
                made = self.ec2.run_instances(
                    ImageId=IMAGE,
                    InstanceType=self.instance_type,
                    MinCount=1,
                    MaxCount=1,
                    **tagged("instance"),
                )
                return str(made["Instances"][0]["InstanceId"])
            case ResourceKind.VOLUME:
                made = self.ec2.create_volume(AvailabilityZone=self.zone, Size=8, **tagged("volume"))
                return str(made["VolumeId"])
            case ResourceKind.ADDRESS:
                made = self.ec2.allocate_address(Domain="vpc", **tagged("elastic-ip"))
                return str(made["AllocationId"])
            case ResourceKind.NETWORK:
                made = self.ec2.create_security_group(
                    GroupName="stranger", Description="A stranger", **tagged("security-group")
                )
                return str(made["GroupId"])
            case ResourceKind.KEY:
                self.ec2.import_key_pair(
                    KeyName="stranger", PublicKeyMaterial=KEY.encode(), **tagged("key-pair")
                )
                return "stranger"

    def owned(self, kind: ResourceKind) -> Collection[str]:
        match kind:
            case ResourceKind.INSTANCE:
                return list(self.running())
            case ResourceKind.VOLUME:
                return [item["VolumeId"] for item in self.ec2.describe_volumes()["Volumes"]]
            case ResourceKind.ADDRESS:
                return [item["AllocationId"] for item in self.ec2.describe_addresses()["Addresses"]]
            case ResourceKind.NETWORK:
                return [item["GroupId"] for item in self.ec2.describe_security_groups()["SecurityGroups"]]
            case ResourceKind.KEY:
                return [item["KeyName"] for item in self.ec2.describe_key_pairs()["KeyPairs"]]

    def refuse_purchases(self, how: Refusal, times: int = 1) -> None:
        self.proxy.plant(is_purchase, times=times, answer=refusal(how))

    def lose_purchase_answer(self) -> None:
        self.proxy.plant(is_purchase, lose_answer=True)

    def purchase_calls(self) -> int:
        return self.proxy.count(is_purchase)

    def reservations(self) -> Mapping[str, Mapping[str, str]]:
        return self.market.tags


@contextmanager
def console(endpoint: str) -> Iterator[Any]:
    """Give an EC2 client of our own, which neither the adapter nor the proxy knows."""
    import boto3
    import botocore.session

    from inventory.providers.aws.session import LOADER

    core: Any = botocore.session.get_session()
    core.register_component("data_loader", LOADER)
    yield boto3.session.Session(
        botocore_session=core, aws_access_key_id="console", aws_secret_access_key="console"
    ).client("ec2", region_name=REGION, endpoint_url=endpoint)


def cut(answer: Answer) -> Answer:
    return Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers)


def same_token(answer: Answer) -> Answer:
    """Say after each page that the second comes next."""
    return Answer(
        answer.status,
        re.sub(rb"<nextToken>\d+<", b"<nextToken>%d<" % Catalog.SIZE, answer.body),
        answer.headers,
    )
