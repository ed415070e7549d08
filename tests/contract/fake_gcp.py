"""A stateful fake of one Google Cloud project: Compute Engine, Cloud Billing and the sign-in.

It answers what Google's discovery documents say; with ``documents`` every request and
every answer is held to them (:mod:`tests.contract.discovery`).
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from google.auth import jwt

from tests.contract.discovery import Discovery
from tests.contract.fake_api import Call, FakeApi, Handler, Reply, route
from tests.contract.gcp_data import (
    CREATED,
    ELSEWHERE,
    EMAIL,
    FAILURES,
    PROJECT,
    REFUSALS,
    REGION,
    RESERVATION,
    SERVICE,
    SKUS,
    TOKEN,
    TYPE,
    TYPES,
    WWW,
    ZONES,
    keys,
    missing,
    refused,
)

PAGE = 2  # so that every listing has several


class FakeGcp(FakeApi):
    """``refuse`` holds names of REFUSALS or FAILURES for the next launches or purchases."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: Discovery | None = None
        self._routes = [(http, path, self._checked(function)) for http, path, function in self._routes]
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.documents = None
        self.numbers = itertools.count(1)
        self.types = copy.deepcopy(TYPES)
        self.skus = copy.deepcopy(SKUS)
        self.instances: dict[str, dict[str, Any]] = {}  # by ZONE/NAME, as are disks and operations
        self.disks: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, dict[str, Any]] = {}
        self.firewalls: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, dict[str, Any]] = {}
        self.reservations = {
            f"{ZONES[0]}/{RESERVATION}": {
                "name": RESERVATION,
                "kind": "compute#reservation",
                "status": "READY",
                "specificReservationRequired": True,
                "specificReservation": {
                    "count": "2",
                    "inUseCount": "0",
                    "instanceProperties": {"machineType": TYPE},
                },
                "creationTimestamp": CREATED,
            }
        }
        self.future: dict[str, dict[str, Any]] = {}
        self.advice: list[dict[str, Any]] | None = None
        self.obtainability: float | None = 0.9
        self.refuse: deque[str] = deque()
        self.unreachable = ""

    # --- the frame

    def _checked(self, function: Handler) -> Handler:
        def checked(call: Call) -> Reply:
            documents = self.documents
            if documents is None or call.path == "/token":
                return function(call)
            path = call.path
            if problems := documents.request(call.method, path, call.query, call.body):
                return refused(400, "invalid", "; ".join(problems), "INVALID_ARGUMENT")
            reply = function(call)
            documents.answer(call.method, path, reply.status, reply.document)
            return reply

        return checked

    def authorize(self, call: Call) -> Reply | None:
        if call.path != "/token" and call.headers.get("authorization") != f"Bearer {TOKEN}":
            return refused(*REFUSALS["unauthorized"])
        if call.arguments.get("project", PROJECT) != PROJECT:
            return missing(f"projects/{call.arguments['project']}")
        if call.arguments.get("zone", ELSEWHERE) not in (*ZONES, ELSEWHERE):
            return missing(f"projects/{PROJECT}/zones/{call.arguments['zone']}")
        return None

    def _serve(self, handler: Any) -> None:
        # The sign-in comes as a form, which is no JSON.
        if handler.path == "/token":
            form = parse_qs(handler.rfile.read(int(handler.headers["content-length"])).decode())
            reply = self.sign_in(form["assertion"][0])
            body = json.dumps(reply.document).encode()
            handler.send_response(reply.status)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        super()._serve(handler)

    def sign_in(self, assertion: str) -> Reply:
        try:
            claims = jwt.decode(assertion, certs=keys()[0][1], verify=True)
        except ValueError:
            return Reply({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        assert claims["iss"] == EMAIL
        return Reply({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})

    def page(self, call: Call, items: Iterable[Mapping[str, Any]]) -> tuple[list[Any], dict[str, str]]:
        found = [item for item in items if fits(item, call.query.get("filter", [""])[0])]
        start = int(call.query.get("pageToken", ["0"])[0] or 0)
        more = {"nextPageToken": str(start + PAGE)} if len(found) > start + PAGE else {}
        return found[start : start + PAGE], more

    def listed(self, call: Call, kind: str, items: Iterable[Mapping[str, Any]]) -> Reply:
        shown, more = self.page(call, items)
        # Google leaves an empty list out.
        return Reply({"kind": f"compute#{kind}List", **({"items": shown} if shown else {}), **more})

    def aggregated(self, call: Call, kind: str, things: Mapping[str, Mapping[str, Any]]) -> Reply:
        """Answer what lies in all zones and regions: every place, most of them with a warning instead."""
        places = {key: key.partition("/")[0] for key in things}
        pairs = [{**thing, "_key": key} for key, thing in things.items()]
        shown, more = self.page(call, pairs)
        found: dict[str, Any] = {
            f"zones/{zone}": {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "None here."}}
            for zone in (*ZONES, ELSEWHERE)
        }
        for each in shown:
            place = places[each.pop("_key")]
            scope = f"zones/{place}" if place in (*ZONES, ELSEWHERE) else f"regions/{place}"
            found[scope] = {kind: [*found.get(scope, {}).get(kind, []), each]}
        if self.unreachable:
            found[f"zones/{self.unreachable}"] = {"warning": {"code": "UNREACHABLE"}}
        return Reply({"kind": "compute#aggregatedList", "items": found, **more})

    def operation(
        self, place: str, kind: str, target: str, *, error: tuple[str, str] | None = None, done: bool = True
    ) -> dict[str, Any]:
        number = next(self.numbers)
        operation: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(number),
            "name": f"operation-{number}",
            "operationType": kind,
            "targetLink": f"{WWW}projects/{PROJECT}/{target}",
            "status": "DONE" if done else "RUNNING",
            "user": EMAIL,
            "insertTime": f"2026-11-23T00:{number // 60 % 60:02}:{number % 60:02}.000-08:00",
            "progress": 100 if done else 0,
        }
        if error:
            operation["error"] = {"errors": [{"code": error[0], "message": error[1]}]}
        self.operations[f"{place}/{operation['name']}"] = operation
        return operation

    # --- the catalog

    @route("GET", "/compute/v1/projects/{project}/regions")
    def list_regions(self, call: Call) -> Reply:
        return self.listed(
            call, "region", [self.region(REGION, ZONES), self.region("europe-west4", [ELSEWHERE])]
        )

    @route("GET", "/compute/v1/projects/{project}/regions/{region}")
    def get_region(self, call: Call) -> Reply:
        name = call.arguments["region"]
        if name != REGION:
            return missing(f"projects/{PROJECT}/regions/{name}")
        return Reply(self.region(REGION, ZONES))

    def region(self, name: str, zones: Iterable[str]) -> dict[str, Any]:
        urls = [f"{WWW}projects/{PROJECT}/zones/{zone}" for zone in zones]
        return {"kind": "compute#region", "name": name, "status": "UP", "zones": urls}

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/machineTypes")
    def list_types(self, call: Call) -> Reply:
        zone = call.arguments["zone"]
        types = self.types if zone == ZONES[0] else self.types[:3]
        return self.listed(call, "machineType", [{**each, "zone": zone} for each in types])

    @route("GET", f"/v1/services/{SERVICE}/skus")
    def list_skus(self, call: Call) -> Reply:
        start = int(call.query.get("pageToken", ["0"])[0] or 0)
        more = str(start + 5) if len(self.skus) > start + 5 else ""
        return Reply({"skus": self.skus[start : start + 5], "nextPageToken": more})

    @route("POST", "/compute/v1/projects/{project}/regions/{region}/advice/capacity")
    def advise_capacity(self, call: Call) -> Reply:
        if self.obtainability is None:
            return refused(400, "invalid", "Machine type is not supported.", "INVALID_ARGUMENT")
        return Reply({"recommendations": [{"scores": {"obtainability": self.obtainability}}]})

    @route("POST", "/compute/v1/projects/{project}/regions/{region}/advice/calendarMode")
    def advise_calendar(self, call: Call) -> Reply:
        [(name, wanted)] = call.body["futureResourcesSpecs"].items()
        span = wanted["timeRangeSpec"]
        start = datetime.fromisoformat(span["startTimeNotEarlierThan"])
        end = start + timedelta(seconds=int(span["minDuration"].removesuffix("s")))
        usual = {
            "location": f"zones/{ZONES[0]}",
            "startTime": start.isoformat(),
            "endTime": end.isoformat(),
            "recommendationId": "3f1c9a52-7a41-4f0e-9b1e-1f5f8f1f2b3c",
            "recommendationType": "FUTURE_RESERVATION",
        }
        advice = [usual] if self.advice is None else self.advice
        return Reply({"recommendations": [{"recommendationsPerSpec": {name: each}} for each in advice]})

    # --- machines

    def make_instance(self, zone: str, name: str, **fields: Any) -> dict[str, Any]:
        number = next(self.numbers)
        instance = {
            "kind": "compute#instance",
            "id": str(number),
            "name": name,
            "zone": f"{WWW}projects/{PROJECT}/zones/{zone}",
            "machineType": f"{WWW}projects/{PROJECT}/zones/{zone}/machineTypes/{TYPE}",
            "status": "PROVISIONING",
            "creationTimestamp": CREATED,
            "networkInterfaces": [
                {
                    "name": "nic0",
                    "networkIP": f"10.128.0.{number % 250 + 2}",
                    "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "natIP": f"198.51.100.{number % 250 + 1}"}],
                }
            ],
            **fields,
        }
        self.instances[f"{zone}/{name}"] = instance
        return instance

    @route("POST", "/compute/v1/projects/{project}/zones/{zone}/instances")
    def insert_instance(self, call: Call) -> Reply:
        zone, body = call.arguments["zone"], call.body
        request = call.query.get("requestId", [""])[0]
        if request in self.requests:
            return Reply(self.requests[request])
        target = f"zones/{zone}/instances/{body['name']}"
        if self.refuse:
            return self.refusal(self.refuse.popleft(), zone, target)
        if f"{zone}/{body['name']}" in self.instances:
            return refused(409, "alreadyExists", f"The resource '{target}' already exists", "ALREADY_EXISTS")
        named = body.get("reservationAffinity", {}).get("values", [])
        if any(f"{zone}/{each}" not in self.reservations for each in named):
            return refused(400, "invalid", "No such reservation", "INVALID_ARGUMENT")
        self.make_instance(
            zone,
            body["name"],
            machineType=f"{WWW}projects/{PROJECT}/{body['machineType']}",
            labels=body["labels"],
            tags=body.get("tags", {}),
        )
        disk = body["disks"][0]["initializeParams"]
        self.make_disk(zone, disk["diskName"], disk["labels"])
        operation = self.operation(zone, "insert", target, done=False)
        if request:
            self.requests[request] = operation
        return Reply(operation)

    def refusal(self, how: str, zone: str, target: str) -> Reply:
        if how in REFUSALS:
            return refused(*REFUSALS[how])
        operation = self.operation(zone, "insert", target, error=FAILURES[how])
        # The call is accepted; that it failed is seen in the operation later.
        return Reply(without(operation, "error") | {"status": "RUNNING", "progress": 0})

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/instances")
    def list_instances(self, call: Call) -> Reply:
        return self.listed(call, "instance", within(self.instances, call.arguments["zone"]))

    @route("GET", "/compute/v1/projects/{project}/aggregated/instances")
    def all_instances(self, call: Call) -> Reply:
        return self.aggregated(call, "instances", self.instances)

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/instances/{name}")
    def get_instance(self, call: Call) -> Reply:
        zone, name = call.arguments["zone"], call.arguments["name"]
        found = self.instances.get(f"{zone}/{name}")
        return Reply(found) if found else missing(f"projects/{PROJECT}/zones/{zone}/instances/{name}")

    @route("DELETE", "/compute/v1/projects/{project}/zones/{zone}/instances/{name}")
    def delete_instance(self, call: Call) -> Reply:
        zone, name = call.arguments["zone"], call.arguments["name"]
        found = self.instances.get(f"{zone}/{name}")
        if found is None:
            return missing(f"projects/{PROJECT}/zones/{zone}/instances/{name}")
        found["status"] = "STOPPING"
        return Reply(self.operation(zone, "delete", f"zones/{zone}/instances/{name}", done=False))

    def finish_operations(self, key: str) -> None:
        zone, _slash, name = key.partition("/")
        for each in within(self.operations, zone):
            if each["targetLink"].endswith(f"/instances/{name}"):
                each["status"] = "DONE"

    def end(self, key: str, kind: str = "delete") -> None:
        """End a machine: it and its disk are gone, and only the operation tells."""
        zone, _slash, name = key.partition("/")
        del self.instances[key]
        self.disks.pop(key, None)
        self.operation(zone, kind, f"zones/{zone}/instances/{name}")

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/operations")
    def list_operations(self, call: Call) -> Reply:
        return self.listed(call, "operation", within(self.operations, call.arguments["zone"]))

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/operations/{name}")
    def get_operation(self, call: Call) -> Reply:
        return self._operation(f"{call.arguments['zone']}/{call.arguments['name']}")

    @route("GET", "/compute/v1/projects/{project}/global/operations/{name}")
    def get_global_operation(self, call: Call) -> Reply:
        return self._operation(f"global/{call.arguments['name']}")

    def _operation(self, key: str) -> Reply:
        found = self.operations.get(key)
        return Reply(found) if found else missing(f"projects/{PROJECT}/operations/{key}")

    # --- disks, addresses and firewalls

    def make_disk(self, zone: str, name: str, labels: Mapping[str, str]) -> None:
        self.disks[f"{zone}/{name}"] = {
            "kind": "compute#disk",
            "name": name,
            "labels": dict(labels),
            "status": "READY",
            "sizeGb": "100",
            "creationTimestamp": CREATED,
        }

    @route("GET", "/compute/v1/projects/{project}/aggregated/disks")
    def all_disks(self, call: Call) -> Reply:
        return self.aggregated(call, "disks", self.disks)

    @route("DELETE", "/compute/v1/projects/{project}/zones/{zone}/disks/{name}")
    def delete_disk(self, call: Call) -> Reply:
        key = f"{call.arguments['zone']}/{call.arguments['name']}"
        if key in self.instances:
            text = f"The disk resource '{key}' is already being used by '{key}'"
            return refused(400, "resourceInUseByAnotherResource", text, "INVALID_ARGUMENT")
        return self._delete(self.disks, key, f"zones/{call.arguments['zone']}/disks/{call.arguments['name']}")

    def make_address(self, region: str, name: str, labels: Mapping[str, str]) -> None:
        self.addresses[f"{region}/{name}"] = {
            "kind": "compute#address",
            "name": name,
            "labels": dict(labels),
            "status": "RESERVED",
            "address": "198.51.100.7",
            "creationTimestamp": CREATED,
        }

    @route("GET", "/compute/v1/projects/{project}/aggregated/addresses")
    def all_addresses(self, call: Call) -> Reply:
        return self.aggregated(call, "addresses", self.addresses)

    @route("DELETE", "/compute/v1/projects/{project}/regions/{region}/addresses/{name}")
    def delete_address(self, call: Call) -> Reply:
        region, name = call.arguments["region"], call.arguments["name"]
        return self._delete(self.addresses, f"{region}/{name}", f"regions/{region}/addresses/{name}")

    def _delete(self, things: dict[str, dict[str, Any]], key: str, path: str) -> Reply:
        if things.pop(key, None) is None:
            return missing(f"projects/{PROJECT}/{path}")
        return Reply(self.operation(key.partition("/")[0], "delete", path))

    @route("GET", "/compute/v1/projects/{project}/global/firewalls")
    def list_firewalls(self, call: Call) -> Reply:
        return self.listed(call, "firewall", self.firewalls.values())

    @route("POST", "/compute/v1/projects/{project}/global/firewalls")
    def insert_firewall(self, call: Call) -> Reply:
        name = call.body["name"]
        if name in self.firewalls:
            text = f"The resource 'projects/{PROJECT}/global/firewalls/{name}' already exists"
            return refused(409, "alreadyExists", text, "ALREADY_EXISTS")
        self.firewalls[name] = {**call.body, "kind": "compute#firewall", "creationTimestamp": CREATED}
        operation = self.operation("global", "insert", f"global/firewalls/{name}")
        return Reply(operation | {"status": "RUNNING"})

    @route("PATCH", "/compute/v1/projects/{project}/global/firewalls/{name}")
    def patch_firewall(self, call: Call) -> Reply:
        name = call.arguments["name"]
        if name not in self.firewalls:
            return missing(f"projects/{PROJECT}/global/firewalls/{name}")
        self.firewalls[name].update(call.body)
        return Reply(self.operation("global", "patch", f"global/firewalls/{name}"))

    @route("DELETE", "/compute/v1/projects/{project}/global/firewalls/{name}")
    def delete_firewall(self, call: Call) -> Reply:
        name = call.arguments["name"]
        if self.firewalls.pop(name, None) is None:
            return missing(f"projects/{PROJECT}/global/firewalls/{name}")
        return Reply(self.operation("global", "delete", f"global/firewalls/{name}"))

    # --- reserved capacity

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/reservations/{name}")
    def get_reservation(self, call: Call) -> Reply:
        zone, name = call.arguments["zone"], call.arguments["name"]
        found = self.reservations.get(f"{zone}/{name}")
        return Reply(found) if found else missing(f"projects/{PROJECT}/zones/{zone}/reservations/{name}")

    @route("GET", "/compute/v1/projects/{project}/aggregated/reservations")
    def all_reservations(self, call: Call) -> Reply:
        return self.aggregated(call, "reservations", self.reservations)

    @route("GET", "/compute/v1/projects/{project}/aggregated/futureReservations")
    def all_future(self, call: Call) -> Reply:
        return self.aggregated(call, "futureReservations", self.future)

    @route("GET", "/compute/v1/projects/{project}/zones/{zone}/futureReservations")
    def list_future(self, call: Call) -> Reply:
        return self.listed(call, "futureReservation", within(self.future, call.arguments["zone"]))

    @route("POST", "/compute/v1/projects/{project}/zones/{zone}/futureReservations")
    def insert_future(self, call: Call) -> Reply:
        zone, body = call.arguments["zone"], call.body
        target = f"zones/{zone}/futureReservations/{body['name']}"
        if self.refuse:
            return self.refusal(self.refuse.popleft(), zone, target)
        if f"{zone}/{body['name']}" in self.future:
            return refused(409, "alreadyExists", f"The resource '{target}' already exists", "ALREADY_EXISTS")
        self.future[f"{zone}/{body['name']}"] = {
            **body,
            "kind": "compute#futureReservation",
            "status": {"procurementStatus": "PENDING_APPROVAL"},
        }
        return Reply(self.operation(zone, "insert", target, done=False))


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def within(things: Mapping[str, dict[str, Any]], place: str) -> Iterator[dict[str, Any]]:
    return (thing for key, thing in things.items() if key.partition("/")[0] == place)


_HAS = re.compile(r"labels\.([\w-]+):\*")
_IS = re.compile(r'labels\.([\w-]+)="([^"]*)"')
_FITS = re.compile(r'(\w+) eq "([^"]*)"')


def fits(item: Mapping[str, Any], question: str) -> bool:
    """Tell whether a listing's filter lets an item through; one that we never send is an error."""
    labels = item.get("labels", {})
    tests: list[tuple[re.Pattern[str], Callable[[re.Match[str]], bool]]] = [
        (_HAS, lambda match: match[1] in labels),
        (_IS, lambda match: labels.get(match[1]) == match[2]),
        (_FITS, lambda match: re.fullmatch(match[2], str(item.get(match[1], ""))) is not None),
    ]
    if not question:
        return True
    for pattern, test in tests:
        if match := pattern.fullmatch(question):
            return test(match)
    raise AssertionError(f"no filter that this fake knows: {question}")
