"""A stateful fake of Lambda's cloud: it answers what Lambda Cloud API 1.10.0 says."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from typing import Any

from tests.contract.fake_api import Call, FakeApi, Reply, route

KEY = "secret_fake-workspace_3f9c1d7a"
REGIONS = {"us-west-1": "California, USA", "us-east-1": "Virginia, USA", "us-south-1": "Texas, USA"}
TYPES: dict[str, dict[str, Any]] = {
    "gpu_8x_h100_sxm5": {
        "description": "8x H100 (80 GB SXM5)",
        "gpu_description": "H100 (80 GB SXM5)",
        "price_cents_per_hour": 2392,
        "specs": {"vcpus": 208, "memory_gib": 1800, "storage_gib": 22528, "gpus": 8},
    },
    "gpu_1x_a10": {
        "description": "1x A10 (24 GB PCIe)",
        "gpu_description": "A10 (24 GB PCIe)",
        "price_cents_per_hour": 75,
        "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1},
    },
    "cpu_4x_general": {
        "description": "4x CPU General",
        "gpu_description": "N/A",
        "price_cents_per_hour": 20,
        "specs": {"vcpus": 4, "memory_gib": 16, "storage_gib": 512, "gpus": 0},
    },
}
ICMP = {"protocol": "icmp", "source_network": "0.0.0.0/0", "description": "Ping"}
OPEN_SSH = {
    "protocol": "tcp",
    "port_range": [22, 22],
    "source_network": "0.0.0.0/0",
    "description": "Allow SSH from anywhere",
}
CREATED = "2026-11-01T10:00:00+00:00"
USER = {"id": "3da5a70a57a7422ea8a7203f98b2198b", "email": "me@example.com", "status": "active"}
FAMILIES = {"lambda-stack-24-04", "ubuntu-24-04"}
IMAGE = "43336648-096d-4cba-9aa2-f9bb7727639d"

# Code, status, message and suggestion, as the document has them.
REFUSALS = {
    "insufficient-capacity": (
        400,
        "instance-operations/launch/insufficient-capacity",
        "Not enough capacity to fulfill launch request.",
        "",
    ),
    "quota": (400, "global/quota-exceeded", "Quota exceeded.", "Contact Support to increase your quota."),
    "inactive": (403, "global/account-inactive", "Your account is inactive.", "Contact Support."),
    "unauthorized": (
        401,
        "global/invalid-api-key",
        "API key was invalid, expired, or deleted.",
        "Check your API key or create a new one, then try again.",
    ),
    "internal": (500, "global/internal-error", "An internal server error occurred.", "Try again later."),
    "throttled": (429, "global/rate-limited", "Too many requests.", ""),
}


def refused(status: int, code: str, message: str, suggestion: str = "") -> Reply:
    error = {"code": code, "message": message}
    if suggestion:
        error["suggestion"] = suggestion
    return Reply({"error": error}, status, {"retry-after": "45"} if status == 429 else {})


def missing(what: str) -> Reply:
    return refused(404, "global/object-does-not-exist", f"{what} does not exist.", "Check the id.")


class FakeLambda(FakeApi):
    """``refuse`` holds the names of REFUSALS with which the next launches are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.numbers = itertools.count(1)
        self.regions = dict(REGIONS)
        self.types = copy.deepcopy(TYPES)
        self.stock = {"gpu_8x_h100_sxm5": {"us-west-1", "us-south-1"}, "gpu_1x_a10": {"us-east-1"}}
        self.instances: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] | None = None  # while it is a set, new instances are not listed yet
        self.ended: dict[str, dict[str, Any]] = {}  # not listed any more
        self.keys: dict[str, dict[str, Any]] = {}
        self.rulesets: dict[str, dict[str, Any]] = {}
        self.filesystems: dict[str, dict[str, Any]] = {}
        self.global_rules: list[dict[str, Any]] = [ICMP]
        self.refuse: deque[str] = deque()

    def authorize(self, call: Call) -> Reply | None:
        if call.headers.get("authorization") != f"Bearer {KEY}":
            return refused(*REFUSALS["unauthorized"])
        return None

    def identifier(self) -> str:
        return f"{next(self.numbers):032x}"

    def region(self, name: str) -> dict[str, str]:
        return {"name": name, "description": self.regions[name]}

    # --- the catalog

    @route("GET", "/api/v1/regions")
    def list_regions(self, call: Call) -> Reply:
        return Reply({"data": [self.region(name) for name in self.regions]})

    @route("GET", "/api/v1/instance-types")
    def list_types(self, call: Call) -> Reply:
        return Reply(
            {
                "data": {
                    name: {
                        "instance_type": {"name": name, **item},
                        "regions_with_capacity_available": [
                            self.region(place) for place in sorted(self.stock.get(name, ()))
                        ],
                    }
                    for name, item in self.types.items()
                }
            }
        )

    @route("GET", "/api/v1/audit-events")
    def list_events(self, call: Call) -> Reply:
        event = {
            "service_name": "cloud",
            "resource_name": "api_key",
            "action": "created",
            "catalog_version": "2025-09-06",
            "event_id": "0123456789abcdef0123456789abcdef",
            "event_time": "2026-09-15T10:30:45.123456Z",
            "actor_lrn": None,
            "resource_lrns": [],
            "resource_owner_lrn": "lrn:cloud:account:fedcba9876543210fedcba9876543210",
            "request_api_key_lrn": None,
            "additional_details": {},
        }
        return Reply({"data": [event], "page_token": None})

    # --- instances

    def make_instance(self, name: str, tags: dict[str, str], **fields: Any) -> dict[str, Any]:
        number = next(self.numbers)
        blocked = {"available": True}
        instance = {
            "id": f"{number:032x}",
            "name": name,
            "status": "booting",
            "ssh_key_names": [],
            "file_system_names": [],
            "region": self.region("us-west-1"),
            "instance_type": {"name": "gpu_8x_h100_sxm5", **self.types["gpu_8x_h100_sxm5"]},
            "ip": f"198.51.100.{number % 250 + 1}",
            "private_ip": f"10.19.0.{number % 250 + 1}",
            "actions": dict.fromkeys(("migrate", "rebuild", "restart", "cold_reboot", "terminate"), blocked),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
            **fields,
        }
        self.instances[instance["id"]] = instance
        if self.unlisted is not None:
            self.unlisted.add(instance["id"])
        return instance

    @route("POST", "/api/v1/instance-operations/launch")
    def launch(self, call: Call) -> Reply:
        if self.refuse:
            return refused(*REFUSALS[self.refuse.popleft()])
        body = call.body
        image = body.get("image") or {"family": "lambda-stack-24-04"}
        known = image.get("id") == IMAGE or image.get("family") in FAMILIES
        names = {key["name"] for key in self.keys.values()}
        for what, there in (
            ("Image", known),
            ("Region", body["region_name"] in self.regions),
            ("Instance type", body["instance_type_name"] in self.types),
            ("SSH key", set(body["ssh_key_names"]) <= names),
            (
                "Firewall ruleset",
                all(item["id"] in self.rulesets for item in body.get("firewall_rulesets", [])),
            ),
        ):
            if not there:
                return missing(what)
        if len(body["ssh_key_names"]) != 1:
            return refused(400, "global/invalid-parameters", "Exactly one SSH key must be specified.")
        if body["region_name"] not in self.stock.get(body["instance_type_name"], ()):
            return refused(*REFUSALS["insufficient-capacity"])
        instance = self.make_instance(
            body.get("name", ""),
            {item["key"]: item["value"] for item in body.get("tags", [])},
            region=self.region(body["region_name"]),
            instance_type={"name": body["instance_type_name"], **self.types[body["instance_type_name"]]},
            ssh_key_names=body["ssh_key_names"],
            firewall_rulesets=body.get("firewall_rulesets", []),
        )
        return Reply({"data": {"instance_ids": [instance["id"]]}})

    @route("GET", "/api/v1/instances")
    def list_instances(self, call: Call) -> Reply:
        late = self.unlisted or set()
        return Reply({"data": [each for key, each in self.instances.items() if key not in late]})

    @route("GET", "/api/v1/instances/{id}")
    def get_instance(self, call: Call) -> Reply:
        found = self.instances.get(call.arguments["id"]) or self.ended.get(call.arguments["id"])
        return Reply({"data": found}) if found else missing("Specified instance")

    @route("POST", "/api/v1/instance-operations/terminate")
    def terminate(self, call: Call) -> Reply:
        ids = call.body["instance_ids"]
        if any(each not in self.instances for each in ids):
            return missing("Specified instance")
        for each in ids:
            self.instances[each]["status"] = "terminating"
        return Reply({"data": {"terminated_instances": [self.instances[each] for each in ids]}})

    # --- keys, rulesets and filesystems

    def make_key(self, name: str, public_key: str) -> dict[str, Any]:
        key = {"id": self.identifier(), "name": name, "public_key": public_key}
        self.keys[key["id"]] = key
        return key

    @route("GET", "/api/v1/ssh-keys")
    def list_keys(self, call: Call) -> Reply:
        return Reply({"data": list(self.keys.values())})

    @route("POST", "/api/v1/ssh-keys")
    def add_key(self, call: Call) -> Reply:
        if any(key["name"] == call.body["name"] for key in self.keys.values()):
            return refused(400, "global/invalid-parameters", "A key of this name is there.")
        return Reply({"data": self.make_key(call.body["name"], call.body["public_key"])})

    @route("DELETE", "/api/v1/ssh-keys/{id}")
    def delete_key(self, call: Call) -> Reply:
        if self.keys.pop(call.arguments["id"], None) is None:
            return refused(404, "global/not-found", "The requested resource was not found.")
        return Reply({"data": {}})

    def users_of(self, ruleset: str) -> list[str]:
        return [
            each["id"]
            for each in self.instances.values()
            if {"id": ruleset} in each.get("firewall_rulesets", [])
        ]

    def make_ruleset(self, name: str, region: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
        ruleset = {
            "id": self.identifier(),
            "name": name,
            "region": self.region(region),
            "rules": rules,
            "created": CREATED,
            "instance_ids": [],
        }
        self.rulesets[ruleset["id"]] = ruleset
        return ruleset

    @route("GET", "/api/v1/firewall-rulesets/global")
    def get_global(self, call: Call) -> Reply:
        rules = {"id": "global", "name": "Default Workspace Global Rules", "rules": self.global_rules}
        return Reply({"data": rules})

    @route("GET", "/api/v1/firewall-rulesets")
    def list_rulesets(self, call: Call) -> Reply:
        return Reply(
            {"data": [{**item, "instance_ids": self.users_of(item["id"])} for item in self.rulesets.values()]}
        )

    @route("POST", "/api/v1/firewall-rulesets")
    def create_ruleset(self, call: Call) -> Reply:
        return Reply({"data": self.make_ruleset(call.body["name"], call.body["region"], call.body["rules"])})

    @route("PATCH", "/api/v1/firewall-rulesets/{id}")
    def update_ruleset(self, call: Call) -> Reply:
        found = self.rulesets.get(call.arguments["id"])
        if found is None:
            return missing("Firewall ruleset")
        found.update(call.body)
        return Reply({"data": found})

    @route("DELETE", "/api/v1/firewall-rulesets/{id}")
    def delete_ruleset(self, call: Call) -> Reply:
        if call.arguments["id"] not in self.rulesets:
            return missing("Firewall ruleset")
        if self.users_of(call.arguments["id"]):
            return refused(
                400,
                "firewall-rulesets/firewall-ruleset-in-use",
                "Firewall ruleset is in use by one or more instances.",
                "Terminate all instances that are using the ruleset before deleting it.",
            )
        del self.rulesets[call.arguments["id"]]
        return Reply({"data": {}})

    def make_filesystem(self, name: str, region: str) -> dict[str, Any]:
        filesystem = {
            "id": self.identifier(),
            "name": name,
            "mount_point": f"/lambda/nfs/{name}",
            "created": CREATED,
            "created_by": USER,
            "is_in_use": False,
            "region": self.region(region),
        }
        self.filesystems[filesystem["id"]] = filesystem
        return filesystem

    @route("GET", "/api/v1/file-systems")
    def list_filesystems(self, call: Call) -> Reply:
        return Reply({"data": list(self.filesystems.values())})

    @route("DELETE", "/api/v1/filesystems/{id}")
    def delete_filesystem(self, call: Call) -> Reply:
        if self.filesystems.pop(call.arguments["id"], None) is None:
            return missing("Filesystem")
        return Reply({"data": {"deleted_ids": [call.arguments["id"]]}})
