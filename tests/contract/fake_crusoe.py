"""A stateful fake of Crusoe Cloud: it answers what Crusoe's API Gateway v1 says, below its base path."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import itertools
from collections import deque
from typing import Any
from urllib.parse import urlencode

from tests.contract.fake_api import Call, FakeApi, Reply, route

KEY_ID, SECRET = "fake-access-key-id-0001", "c2VjcmV0LW9mLWEtZmFrZS1wcm9qZWN0"
PROJECT, ORGANIZATION = "09ae8411-0fbb-411c-898c-2b8f19622ae1", "ab4a6b00-aa5f-408e-a9fb-ac6de5eb45ab"
RESERVATION = "804bf3a2-81f2-4d78-9a9e-dc6a55ed33d8"
H100, A40 = "h100-80gb-sxm-ib.8x", "a40.1x"
LOCATIONS = ["us-east1-a", "us-northcentral1-a", "us-northcentral1-b"]
TYPES: dict[str, dict[str, Any]] = {
    H100: {"cpu_cores": 176, "memory_gb": 960, "num_gpu": 8, "gpu_type": "H100-SXM-80GB"},
    A40: {"cpu_cores": 6, "memory_gb": 60, "num_gpu": 1, "gpu_type": "A40-PCIe-48GB"},
    "c1a.4x": {"cpu_cores": 4, "memory_gb": 16, "num_gpu": 0, "gpu_type": ""},
}
IMAGES = {"ubuntu22.04-nvidia-sxm-docker:latest"}
CREATED = "2026-11-01T10:00:00Z"
PAGE = 2  # VMs to a page

# Status, code and message of an answer that refuses.
REFUSALS = {
    "quota": (400, "quota_exceeded", "This request exceeds the project's quota of h100-80gb-sxm-ib."),
    "forbidden": (403, "unauthorized", "The user may not create VMs in this project."),
    "unauthorized": (401, "bad_credential", "The signature of the request is wrong."),
    "internal": (500, "internal_error", "Something went wrong."),
    "in-use": (400, "bad_request", "The resource is still in use."),
}
OUT_OF_STOCK = {"code": "out_of_stock", "message": "The VM type is out of stock in this location."}


def refused(status: int, code: str, message: str) -> Reply:
    return Reply({"code": code, "message": message}, status)


def missing(what: str, status: int = 400) -> Reply:
    return refused(status, "not_found", f"{what} not found")


class FakeCrusoe(FakeApi):
    """``refuse`` holds names of REFUSALS, or "no-capacity", with which the next launches are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.numbers = itertools.count(1)
        self.types = copy.deepcopy(TYPES)
        self.free = {(H100, "us-east1-a"): 4, (A40, "us-northcentral1-b"): 2}
        self.vms: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] | None = None  # while it is a set, new VMs are not listed yet
        self.disks: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.subnets: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        self.partitions: dict[str, dict[str, Any]] = {}
        self.refuse: deque[str] = deque()

    def authorize(self, call: Call) -> Reply | None:
        query = urlencode(sorted(call.query.items()), doseq=True)
        timestamp = call.headers.get("x-crusoe-timestamp", "")
        message = f"{call.path}\n{query}\n{call.method}\n{timestamp}\n".encode()
        secret = base64.urlsafe_b64decode(SECRET + "=" * (-len(SECRET) % 4))
        digest = base64.urlsafe_b64encode(hmac.new(secret, message, hashlib.sha256).digest())
        wanted = f"Bearer 1.0:{KEY_ID}:{digest.decode().rstrip('=')}"
        if not timestamp or call.headers.get("authorization") != wanted:
            return refused(*REFUSALS["unauthorized"])
        return None

    def identifier(self) -> str:
        return f"00000000-0000-4000-8000-{next(self.numbers):012x}"

    def operation(self, resource: str, state: str = "SUCCEEDED", result: Any = None) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operation_id": self.identifier(),
            "state": state,
            "metadata": {"id": resource},
            "result": result or {},
            "started_at": CREATED,
            "completed_at": "" if state == "IN_PROGRESS" else CREATED,
        }
        self.operations[operation["operation_id"]] = operation
        return operation

    def done(self, resource: str) -> Reply:
        return Reply({"operation": self.operation(resource)})

    # --- the catalog

    @route("GET", "/organizations/projects/{project}")
    def get_project(self, call: Call) -> Reply:
        nothing = {"count": 0}
        kinds = ("instances", "disks", "snapshots", "images", "vpc_networks")
        return Reply(
            {
                "id": PROJECT,
                "organization_id": ORGANIZATION,
                "name": "resale",
                "relation": "owner",
                "resources": dict.fromkeys(kinds, nothing),
            }
        )

    @route("GET", "/locations")
    def list_locations(self, call: Call) -> Reply:
        return Reply({"items": LOCATIONS})

    @route("GET", "/capacities")
    def list_capacities(self, call: Call) -> Reply:
        items = [
            {"type": name, "location": location, "quantity": free, "num_slices": 1, "quota_type": ""}
            for (name, location), free in self.free.items()
        ]
        return Reply({"items": items})

    @route("GET", "/projects/{project}/compute/vms/types")
    def list_types(self, call: Call) -> Reply:
        common = {"cpu_type": "intel", "memory_type": "RAM", "disk_gb": 0, "disk_type": ""}
        items = [
            {"product_name": name, "description": name, **common, **item} for name, item in self.types.items()
        ]
        return Reply({"items": items})

    # --- VMs

    def make_vm(self, name: str, **fields: Any) -> dict[str, Any]:
        number = next(self.numbers)
        vm = {
            "id": f"00000000-0000-4000-9000-{number:012x}",
            "name": name,
            "project_id": PROJECT,
            "type": H100,
            "location": "us-east1-a",
            "state": "STATE_DEFINING",
            "created_at": CREATED,
            "updated_at": CREATED,
            "disks": [],
            "host_channel_adapters": [],
            "maintenance_policy": "unspecified",
            "network_interfaces": [
                {
                    "id": f"nic-{number}",
                    "name": "eth0",
                    "network": "default",
                    "subnet": "default",
                    "interface_type": "ethernet",
                    "mac_address": "00:00:5e:00:53:af",
                    "external_dns_name": "",
                    "ips": [
                        {
                            "private_ipv4": {"address": f"172.27.0.{number % 240 + 5}"},
                            "public_ipv4": {
                                "address": f"198.51.100.{number % 250 + 1}",
                                "id": "",
                                "type": "dynamic",
                            },
                        }
                    ],
                }
            ],
            **fields,
        }
        self.vms[vm["id"]] = vm
        if self.unlisted is not None:
            self.unlisted.add(vm["id"])
        return vm

    @route("POST", "/projects/{project}/compute/vms/instances")
    def create_vm(self, call: Call) -> Reply:
        how = self.refuse.popleft() if self.refuse else ""
        if how and how != "no-capacity":
            return refused(*REFUSALS[how])
        body = call.body
        if how or self.free.get((body["type"], body["location"]), 0) < 1:
            # It is found out in the background, as with the real one.
            failed = self.operation(self.identifier(), "FAILED", OUT_OF_STOCK)
            return Reply({"operation": {**failed, "state": "IN_PROGRESS", "result": {}, "completed_at": ""}})
        if body.get("image") not in IMAGES and "custom_image" not in body:
            return missing("image")
        if any(vm["name"] == body["name"] for vm in self.vms.values()):
            return refused(400, "bad_request", "A VM of this name exists.")
        [interface] = body["network_interfaces"]
        subnet = self.subnets.get(interface["subnet"])
        if subnet is None or subnet["location"] != body["location"]:
            return missing("subnet")
        reservation = body.get("reservation_specification", {}).get("id")
        if reservation not in (None, RESERVATION):
            return missing("reservation")
        vm = self.make_vm(body["name"], type=body["type"], location=body["location"])
        vm["network_interfaces"][0] |= {"network": interface["network"], "subnet": interface["subnet"]}
        if reservation:
            vm["reservation_id"] = reservation
        vm["host_channel_adapters"] = [
            {
                "type": "infiniband",
                "guid": "946d:ae03:0021:69aa",
                "ib_network_id": self.partitions[adapter["transport_partition_id"]]["ib_network_id"],
                "ib_partition_id": adapter["transport_partition_id"],
                "transport_network_id": "",
                "transport_partition_id": adapter["transport_partition_id"],
            }
            for adapter in body.get("host_channel_adapters", [])
        ]
        return Reply({"operation": self.operation(vm["id"], "IN_PROGRESS")})

    @route("GET", "/projects/{project}/compute/vms/instances")
    def list_vms(self, call: Call) -> Reply:
        ids = call.query.get("ids")
        late = self.unlisted or set()
        found = [
            vm
            for key, vm in self.vms.items()
            if key not in late and (ids is None or key in ids[0].split(","))
        ]
        start = int(call.query.get("next_token", ["0"])[0])
        following = str(start + PAGE) if start + PAGE < len(found) else ""
        return Reply(
            {"items": found[start : start + PAGE], "next_page_token": following, "prev_page_token": ""}
        )

    @route("GET", "/projects/{project}/compute/vms/instances/operations")
    def list_operations(self, call: Call) -> Reply:
        resource = call.query.get("resource_id", [""])[0]
        return Reply({"items": [op for op in self.operations.values() if op["metadata"]["id"] == resource]})

    @route("GET", "/projects/{project}/compute/vms/instances/operations/{id}")
    def get_operation(self, call: Call) -> Reply:
        found = self.operations.get(call.arguments["id"])
        return Reply(found) if found else missing("operation")

    @route("DELETE", "/projects/{project}/compute/vms/instances/{id}")
    def delete_vm(self, call: Call) -> Reply:
        vm = self.vms[call.arguments["id"]]
        vm["state"] = "STATE_DELETING"
        return Reply({"operation": self.operation(vm["id"], "IN_PROGRESS")})

    # --- networks

    def make_network(self, name: str, cidr: str = "172.27.0.0/16") -> dict[str, Any]:
        network: dict[str, Any] = {
            "id": self.identifier(),
            "name": name,
            "cidr": cidr,
            "gateway": "",
            "subnets": [],
        }
        self.networks[network["id"]] = network
        return network

    @route("GET", "/projects/{project}/networking/vpc-networks")
    def list_networks(self, call: Call) -> Reply:
        return Reply({"items": list(self.networks.values())})

    @route("POST", "/projects/{project}/networking/vpc-networks")
    def create_network(self, call: Call) -> Reply:
        return Reply({"network": self.make_network(call.body["name"], call.body["cidr"])})

    @route("DELETE", "/projects/{project}/networking/vpc-networks/{id}")
    def delete_network(self, call: Call) -> Reply:
        network = call.arguments["id"]
        if network not in self.networks:
            return missing("network", 404)
        if any(part["vpc_network_id"] == network for part in (*self.subnets.values(), *self.rules.values())):
            return refused(*REFUSALS["in-use"])
        del self.networks[network]
        return self.done(network)

    @route("GET", "/projects/{project}/networking/vpc-subnets")
    def list_subnets(self, call: Call) -> Reply:
        return Reply({"items": list(self.subnets.values())})

    @route("POST", "/projects/{project}/networking/vpc-subnets")
    def create_subnet(self, call: Call) -> Reply:
        kept = ("name", "cidr", "vpc_network_id", "location")
        subnet = {"id": self.identifier(), **{name: call.body[name] for name in kept}, "nat_gateways": []}
        self.subnets[subnet["id"]] = subnet
        return Reply({"subnet": subnet})

    @route("DELETE", "/projects/{project}/networking/vpc-subnets/{id}")
    def delete_subnet(self, call: Call) -> Reply:
        subnet = call.arguments["id"]
        if subnet not in self.subnets:
            return missing("subnet", 404)
        if any(vm["network_interfaces"][0]["subnet"] == subnet for vm in self.vms.values()):
            return refused(*REFUSALS["in-use"])
        del self.subnets[subnet]
        return self.done(subnet)

    @route("GET", "/projects/{project}/networking/vpc-firewall-rules")
    def list_rules(self, call: Call) -> Reply:
        return Reply({"items": list(self.rules.values())})

    @route("POST", "/projects/{project}/networking/vpc-firewall-rules")
    def create_rule(self, call: Call) -> Reply:
        rule = {"id": self.identifier(), "state": "active", "source_ports": [], **call.body}
        self.rules[rule["id"]] = rule
        return self.done(rule["id"])

    @route("DELETE", "/projects/{project}/networking/vpc-firewall-rules/{id}")
    def delete_rule(self, call: Call) -> Reply:
        del self.rules[call.arguments["id"]]
        return self.done(call.arguments["id"])

    @route("GET", "/projects/{project}/networking/ib-partitions")
    def list_partitions(self, call: Call) -> Reply:
        return Reply({"items": list(self.partitions.values())})

    @route("POST", "/projects/{project}/networking/ib-partitions")
    def create_partition(self, call: Call) -> Reply:
        partition = {"id": self.identifier(), **call.body}
        self.partitions[partition["id"]] = partition
        return Reply(partition)

    @route("DELETE", "/projects/{project}/networking/ib-partitions/{id}")
    def delete_partition(self, call: Call) -> Reply:
        partition = call.arguments["id"]
        if partition not in self.partitions:
            return missing("partition")
        if any(
            adapter["ib_partition_id"] == partition
            for vm in self.vms.values()
            for adapter in vm["host_channel_adapters"]
        ):
            return refused(*REFUSALS["in-use"])
        del self.partitions[partition]
        return Reply()

    # --- disks

    def make_disk(self, name: str, location: str) -> dict[str, Any]:
        disk: dict[str, Any] = {
            "id": self.identifier(),
            "name": name,
            "type": "persistent-ssd",
            "size": "100GiB",
            "location": location,
            "block_size": 4096,
            "created_at": CREATED,
            "updated_at": CREATED,
            "serial_number": "96FD14FDBCF7E21E8EC",
            "attached_to": [],
        }
        self.disks[disk["id"]] = disk
        return disk

    @route("GET", "/projects/{project}/storage/disks")
    def list_disks(self, call: Call) -> Reply:
        return Reply({"items": list(self.disks.values())})

    @route("DELETE", "/projects/{project}/storage/disks/{id}")
    def delete_disk(self, call: Call) -> Reply:
        del self.disks[call.arguments["id"]]
        return self.done(call.arguments["id"])
