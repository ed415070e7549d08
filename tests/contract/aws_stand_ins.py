"""What moto lacks or does slowly: EC2's price list, its reservations, and its GPU types in pages."""

from __future__ import annotations

import gzip
import json
import re
import urllib.request
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from tests.contract.faults import Answer, Request

REGION, ZONE, INSTANCE_TYPE = "us-east-1", "us-east-1a", "p4d.24xlarge"
RESERVATION = "cr-0123456789abcdef0"  # on demand; every commitment of the stage has it
MOMENT = "%Y-%m-%dT%H:%M:%S.000Z"


def action(request: Request) -> str:
    """Return the name of the call, of the query protocol or of the JSON one."""
    target = request.headers.get("x-amz-target", "")
    return target.rpartition(".")[2] or form(request).get("Action", [""])[0]


def form(request: Request) -> dict[str, list[str]]:
    body = gzip.decompress(request.body) if request.body[:2] == b"\x1f\x8b" else request.body
    return parse_qs(body.decode(errors="replace"))


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
            f"<instanceType>{INSTANCE_TYPE}</instanceType><totalInstanceCount>2</totalInstanceCount>"
            f"<availabilityZone>us-east-1a</availabilityZone><reservationType>capacity-block</reservationType>"
            f"<tagSet>{listed}</tagSet>"
        )
        return answer("PurchaseCapacityBlock", "capacityReservation", self.held[sold], one=True)

    def list(self, request: Request) -> Answer:
        """Answer for all, or for the one on demand that every commitment of the stage has."""
        if "CapacityReservationId.1" not in form(request):
            return answer("DescribeCapacityReservations", "capacityReservationSet", *self.held.values())
        found = f"<capacityReservationId>{RESERVATION}</capacityReservationId>"
        kind = "<reservationType>default</reservationType><state>active</state>"
        return answer("DescribeCapacityReservations", "capacityReservationSet", found + kind)


def answer(action: str, field: str, *items: str, one: bool = False) -> Answer:
    inner = items[0] if one else "".join(f"<item>{item}</item>" for item in items)
    body = (
        f'<?xml version="1.0"?><{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<{field}>{inner}</{field}></{action}Response>"
    )
    return Answer(200, body.encode(), {"content-type": "text/xml;charset=UTF-8"})


def read_types(endpoint: str) -> bytes:
    """Return moto's whole answer to DescribeInstanceTypes."""
    question = urllib.request.Request(
        endpoint,
        data=b"Action=DescribeInstanceTypes&Version=2016-11-15",
        headers={"authorization": f"AWS4-HMAC-SHA256 Credential=console/20260101/{REGION}/ec2/aws4_request"},
    )
    with urllib.request.urlopen(question, timeout=60) as answer:
        return bytes(answer.read())
