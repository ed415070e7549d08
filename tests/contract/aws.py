"""EC2 by moto, an independent server, behind our proxy that says what moto never does."""

from __future__ import annotations

import gzip
import json
import re
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs

import pytest

from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.faults import HTML, Answer, FaultyProxy, Request, faulty

REGION = "us-east-1"
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


def action(request: Request) -> str:
    """Return the name of the call, of the query protocol or of the JSON one."""
    target = request.headers.get("x-amz-target", "")
    return target.rpartition(".")[2] or form(request).get("Action", [""])[0]


def form(request: Request) -> dict[str, list[str]]:
    body = gzip.decompress(request.body) if request.body[:2] == b"\x1f\x8b" else request.body
    return parse_qs(body.decode(errors="replace"))


def is_launch(request: Request) -> bool:
    return action(request) == "RunInstances"


def is_purchase(request: Request) -> bool:
    return action(request) == "PurchaseCapacityBlock"


def is_catalog(request: Request) -> bool:
    return action(request) == "DescribeInstanceTypes"


def is_later_page(request: Request) -> bool:
    return is_catalog(request) and "NextToken" in form(request)


class Catalog:
    """moto's GPU types, in pages of thirty: it sends all 1,395 types on one page, which takes two seconds."""

    SIZE = 30

    def __init__(self, body: bytes) -> None:
        start, tag, rest = body.partition(b"<instanceTypeSet>")
        items, end_tag, end = rest.rpartition(b"</instanceTypeSet>")
        self.before, self.end_tag, self.after = start + tag, end_tag, end
        each = re.findall(rb"<item>\s*<instanceType>.*?(?=<item>\s*<instanceType>|\Z)", items, re.DOTALL)
        self.items = [item for item in each if b"<gpuInfo>" in item or b"<instanceType>m5.large<" in item]
        assert len(self.items) > 2 * self.SIZE
        types = (re.search(rb"<instanceType>([^<]+)", item) for item in self.items)
        self.names = [match[1].decode() for match in types if match]

    def page(self, request: Request) -> Answer:
        first = int(form(request).get("NextToken", ["0"])[0])
        named = {value[0] for key, value in form(request).items() if key.startswith("InstanceType.")}
        wanted = [
            item for item, name in zip(self.items, self.names, strict=True) if not named or name in named
        ]
        more = f"<nextToken>{first + self.SIZE}</nextToken>" if len(wanted) > first + self.SIZE else ""
        items = b"".join(wanted[first : first + self.SIZE])
        return Answer(
            200,
            self.before + items + self.end_tag + more.encode() + self.after,
            {"content-type": "text/xml;charset=UTF-8"},
        )


def has_wrong_key(request: Request) -> bool:
    return "Credential=AKIAREVOKED" in request.headers.get("authorization", "")


class PriceList:
    """GetProducts, which moto has not: every GPU type for ten dollars, unless it was given another price."""

    def __init__(self, names: Collection[str]) -> None:
        self.names, self.changed = names, dict[str, Decimal]()

    def answer(self, request: Request) -> Answer:
        question = json.loads(request.body)
        wanted = {item["Field"]: item["Value"] for item in question["Filters"]}
        wanted = {"instanceFamily": "GPU instance", **wanted}
        products = [self._product({**wanted, "instanceType": name}) for name in self.names]
        found = [
            product for product in products if wanted.items() <= product["product"]["attributes"].items()
        ]
        document = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product) for product in found]}
        return Answer(200, json.dumps(document).encode(), {"content-type": "application/x-amz-json-1.1"})

    def _product(self, attributes: Mapping[str, str]) -> dict[str, Any]:
        price = self.changed.get(attributes["instanceType"], Decimal(10))
        dimension = {"unit": "Hrs", "beginRange": "0", "pricePerUnit": {"USD": f"{price:.10f}"}}
        term = {"effectiveDate": "2026-11-01T00:00:00Z", "priceDimensions": {"A.B.C": dimension}}
        return {
            "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": "A"},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {"A.B": term}},
        }


class Reservations:
    """Capacity Blocks for sale, and every reservation of the account, which moto has not."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}  # id -> its document
        self.tags: dict[str, dict[str, str]] = {}
        start = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) + timedelta(days=3)
        self.period = (
            f"<startDate>{start:{MOMENT}}</startDate><endDate>{start + timedelta(days=2):{MOMENT}}</endDate>"
        )

    def offer(self, request: Request) -> Answer:
        asked = form(request)
        assert asked["CapacityDurationHours"] == ["48"]
        offering = (
            f"<capacityBlockOfferingId>cb-0123456789abcdef0</capacityBlockOfferingId>{self.period}"
            f"<instanceType>{asked['InstanceType'][0]}</instanceType><availabilityZone>us-east-1a</availabilityZone>"
            f"<instanceCount>{asked['InstanceCount'][0]}</instanceCount><upfrontFee>1416.00</upfrontFee>"
            "<capacityBlockDurationHours>48</capacityBlockDurationHours><currencyCode>USD</currencyCode>"
        )
        return answer("DescribeCapacityBlockOfferings", "capacityBlockOfferingSet", offering)

    def sell(self, request: Request) -> Answer:
        asked = form(request)
        assert asked["CapacityBlockOfferingId"] == ["cb-0123456789abcdef0"]
        tags = {
            asked[f"TagSpecification.1.Tag.{number}.Key"][0]: asked[f"TagSpecification.1.Tag.{number}.Value"][
                0
            ]
            for number in (1, 2)
        }
        listed = "".join(
            f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items()
        )
        sold = f"cr-{len(self.held):017x}"
        self.tags[sold] = tags
        self.held[sold] = (
            f"<capacityReservationId>{sold}</capacityReservationId>{self.period}<state>payment-pending</state>"
            f"<instanceType>{AwsCounterpart.instance_type}</instanceType><totalInstanceCount>2</totalInstanceCount>"
            f"<availabilityZone>us-east-1a</availabilityZone><reservationType>capacity-block</reservationType>"
            f"<tagSet>{listed}</tagSet>"
        )
        return answer("PurchaseCapacityBlock", "capacityReservation", self.held[sold], one=True)

    def list(self, request: Request) -> Answer:
        """Answer for all, or for the one on demand that every commitment of the stage has."""
        if "CapacityReservationId.1" not in form(request):
            return answer("DescribeCapacityReservations", "capacityReservationSet", *self.held.values())
        found = f"<capacityReservationId>{AwsCounterpart.reservation_id}</capacityReservationId>"
        kind = "<reservationType>default</reservationType><state>active</state>"
        return answer("DescribeCapacityReservations", "capacityReservationSet", found + kind)


MOMENT = "%Y-%m-%dT%H:%M:%S.000Z"


def answer(action: str, field: str, *items: str, one: bool = False) -> Answer:
    inner = items[0] if one else "".join(f"<item>{item}</item>" for item in items)
    body = (
        f'<?xml version="1.0"?><{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<{field}>{inner}</{field}></{action}Response>"
    )
    return Answer(200, body.encode(), {"content-type": "text/xml;charset=UTF-8"})


class AwsCounterpart(Counterpart):
    kind = "aws"
    region = REGION
    zone = "us-east-1a"
    instance_type = "p4d.24xlarge"
    reservation_id = "cr-0123456789abcdef0"
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


def read_types(endpoint: str) -> bytes:
    """Return moto's whole answer to DescribeInstanceTypes."""
    question = urllib.request.Request(
        endpoint,
        data=b"Action=DescribeInstanceTypes&Version=2016-11-15",
        headers={"authorization": f"AWS4-HMAC-SHA256 Credential=console/20260101/{REGION}/ec2/aws4_request"},
    )
    with urllib.request.urlopen(question, timeout=60) as answer:
        return bytes(answer.read())
