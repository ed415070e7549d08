"""A stateful fake of Vast.ai's market: it answers what its OpenAPI document 1.0.0 says."""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import Any

from tests.contract.fake_api import Call, FakeApi, Reply, route

KEY = "fake-vast-key-5d1f0a77c9"
ADDRESS = "203.0.113.42"
PAGE = 25

# Status, error and message. Where the document has no such refusal, the status is one of its own.
REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    "taken": (
        404,
        {
            "success": False,
            "error": "invalid_args",
            "msg": "error 404/3603: no_such_ask Instance type by id 1234567 is not available.",
            "ask_id": 1234567,
        },
    ),
    "gone": (
        410,
        {
            "success": False,
            "error": "no_such_ask",
            "msg": "error 410/3907: no_such_ask Instance type 1234567 is no longer available.",
            "ask_id": 1234567,
        },
    ),
    "credit": (
        403,
        {
            "success": False,
            "error": "insufficient_credit",
            "msg": "Your account lacks credit; see the billing page.",
        },
    ),
    "frequent": (429, {"detail": "API requests too frequent endpoint threshold=4.5"}),
    "key": (401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}),
}


def refused(name: str) -> Reply:
    status, document = REFUSALS[name]
    return Reply(document, status)


def host(number: int, **fields: Any) -> dict[str, Any]:
    """Return an offer, with the fields that the document's example has and we read, and some more."""
    return {
        "id": number,
        "ask_contract_id": number,
        "machine_id": number + 50_000,
        "host_id": 7,
        "num_gpus": 8,
        "gpu_name": "H100 SXM",
        "gpu_arch": "nvidia",
        "gpu_ram": 81559,
        "gpu_frac": 1.0,
        "geolocation": "Frankfurt, DE",
        "dph_base": 19.5,
        "dph_total": 19.912345678912345,
        "min_bid": 8.000000001,
        "verification": "verified",
        "rentable": True,
        "rented": False,
        "direct_port_count": 42,
        "duration": 8_640_000.5,
        "reliability": 0.9991,
        "reliability2": 0.9991,
        "hosting_type": 1,
        "cpu_ram": 2_063_000,
        "cpu_cores_effective": 192.0,
        "public_ipaddr": ADDRESS,
        "static_ip": True,
        **fields,
    }


class FakeVast(FakeApi):
    """``refuse`` holds the names of REFUSALS with which the next launches are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.numbers = itertools.count(4_000_001)
        self.hosts: dict[int, dict[str, Any]] = {}
        self.instances: dict[int, dict[str, Any]] = {}
        self.unlisted: set[int] | None = None  # while it is a set, new instances are not listed yet
        self.refuse: deque[str] = deque()
        for number in (101, 102, 103, 104):
            self.hosts[number] = host(number)
        self.hosts[201] = host(
            201, num_gpus=4, gpu_name="RTX 4090", gpu_ram=24564, dph_total=1.6, min_bid=0.8
        )
        self.hosts[301] = host(301, geolocation="Virginia, US", dph_total=17.25)

    def authorize(self, call: Call) -> Reply | None:
        if call.headers.get("authorization") == f"Bearer {KEY}":
            return None
        if call.path.rstrip("/").endswith("/bundles"):  # as the document says
            return Reply({"error": "auth_error", "msg": "Invalid user key"}, 404)
        return refused("key")

    @route("GET", "/api/v0/users/current")
    def show_user(self, call: Call) -> Reply:
        return Reply(
            {"id": 4711, "key_id": 12, "email": "ops@reseller.example", "balance": 250.5, "sid": "s"}
        )

    @route("POST", "/api/v0/bundles")
    def search(self, call: Call) -> Reply:
        found = [
            item
            for item in self.hosts.values()
            if all(
                _passes(item, field, test)
                for field, test in call.body.items()
                if isinstance(test, dict) and field != "verified"
            )
        ]
        if call.body["verified"] == {"eq": True}:
            found = [item for item in found if item["verification"] == "verified"]
        found.sort(key=lambda item: (item["dph_total"], item["id"]))
        return Reply({"offers": found[: call.body["limit"]]})

    def make_instance(self, label: str | None, ask: dict[str, Any], **fields: Any) -> dict[str, Any]:
        number = next(self.numbers)
        instance = {
            "id": number,
            "actual_status": None,
            "intended_status": "running",
            "cur_state": "running",
            "next_state": "running",
            "label": label,
            # Elsewhere the place reads otherwise than in the offer.
            "geolocation": "Hesse, Germany",
            "country_code": None,
            "machine_id": ask["machine_id"],
            "num_gpus": ask["num_gpus"],
            "gpu_name": ask["gpu_name"],
            "gpu_ram": ask["gpu_ram"],
            "gpu_frac": ask["gpu_frac"],
            "start_date": 1_795_400_000.1223178,
            "public_ipaddr": ADDRESS + "\n",
            "ssh_host": "ssh123.vast.ai",
            "ssh_port": 10600,
            "ports": None,
            "dph_total": ask["dph_total"],
            "is_bid": False,
            "status_msg": None,
            **fields,
        }
        self.instances[number] = instance
        if self.unlisted is not None:
            self.unlisted.add(number)
        return instance

    @route("PUT", "/api/v0/asks/{id}")
    def create_instance(self, call: Call) -> Reply:
        if self.refuse:
            return refused(self.refuse.popleft())
        ask = self.hosts.get(int(call.arguments["id"]))
        if ask is None:
            return refused("taken")
        if not ask["rentable"]:
            return refused("gone")
        if "price" in call.body and call.body["price"] < ask["min_bid"]:
            return Reply({"success": False, "error": "invalid_price", "msg": "The bid is too low."}, 400)
        ask["rentable"] = False
        made = self.make_instance(
            call.body.get("label"), ask, is_bid="price" in call.body, onstart=call.body.get("onstart", "")
        )
        return Reply({"success": True, "new_contract": made["id"]})

    @route("GET", "/api/v1/instances")
    def show_instances(self, call: Call) -> Reply:
        filters = json.loads(call.query.get("select_filters", ["{}"])[0])
        after = int(call.query.get("after_token", ["0"])[0])
        late = self.unlisted or set()
        found = [
            item
            for number, item in sorted(self.instances.items())
            if number not in late and all(_passes(item, field, test) for field, test in filters.items())
        ]
        page = [item for item in found if item["id"] > after][: int(call.query["limit"][0])]
        more = bool(page) and page[-1]["id"] != found[-1]["id"]
        return Reply(
            {
                "success": True,
                "instances_found": len(page),
                "total_instances": len(found),
                "label_counts": {},
                "next_token": str(page[-1]["id"]) if more else None,
                "instances": page,
            }
        )

    @route("DELETE", "/api/v0/instances/{id}")
    def destroy_instance(self, call: Call) -> Reply:
        if self.instances.pop(int(call.arguments["id"]), None) is None:
            return Reply({"success": False, "error": "not_found", "msg": "Instance not found"}, 404)
        return Reply({"success": True, "msg": "Instance destroyed successfully"})

    def run(self, instance: dict[str, Any]) -> None:
        """Let an instance be up, with a port of its host mapped to its SSH."""
        port = str(20_000 + instance["id"] % 1_000)
        instance["actual_status"] = "running"
        instance["ports"] = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": port}]}


def _passes(item: dict[str, Any], field: str, test: dict[str, Any]) -> bool:
    value = item.get(field)
    if field == "geolocation":
        value = str(value)[-2:]
    if field == "datacenter":
        value = item.get("hosting_type") == 1
    for operator, wanted in test.items():
        if operator == "eq" and value != wanted:
            return False
        if operator == "in" and value not in wanted:
            return False
        if operator == "gte" and not (value is not None and value >= wanted):
            return False
    return True
