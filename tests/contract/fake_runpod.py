"""A stateful fake of RunPod: it answers what Runpod REST API 2.0.0 says."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from typing import Any

from tests.contract.fake_api import Call, FakeApi, Reply, route

KEY = "rpa_FAKEACCOUNT0123456789"
CENTERS = {"US-KS-2": "US Kansas 2", "EU-RO-1": "EU Romania 1"}
H100, RTX4090 = "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090"
GPUS: dict[str, dict[str, Any]] = {
    H100: {
        "name": "H100 SXM",
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": 80,
        "secure": True,
        "community": False,
        "price": {"secure": 2.99, "community": 0},
        "maxCount": {"secure": 8, "community": 0},
    },
    RTX4090: {
        "name": "RTX 4090",
        "pool": "ADA_24",
        "manufacturer": "NVIDIA",
        "memory": 24,
        "secure": True,
        "community": True,
        "price": {"secure": 0.69, "community": 0.34, "serverless": 1.1},
        "maxCount": {"secure": 6, "community": 4},
    },
}
CREATED = "2026-11-01T10:00:00Z"

# Status, title and detail; the words of a pod that cannot be placed are RunPod's own.
REFUSALS = {
    "no-capacity": (400, "Bad Request", "create pod: There are no instances currently available"),
    "balance": (402, "Payment Required", "Your account balance is too low to deploy this pod."),
    "forbidden": (403, "Forbidden", "access denied"),
    "unauthorized": (401, "Unauthorized", "invalid bearer token"),
    "throttled": (429, "Too Many Requests", "rate limit exceeded for the minute window"),
    "internal": (500, "Internal Server Error", "Something went wrong. Please try again later."),
}


def refused(status: int, title: str, detail: str) -> Reply:
    headers = {"content-type": "application/problem+json"}
    if status == 429:
        headers |= {"retry-after": "45", "RateLimit": '"minute";r=0;t=45, "hour";r=2800;t=1812'}
    return Reply({"title": title, "status": status, "detail": detail}, status, headers)


def missing(what: str) -> Reply:
    return refused(404, "Not Found", f"{what} not found")


class FakeRunPod(FakeApi):
    """``refuse`` holds the names of REFUSALS with which the next launches are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.numbers = itertools.count(1)
        self.gpus = copy.deepcopy(GPUS)
        # Where how many GPUs of a kind can be had as one pod, and how many at most.
        self.stock = {H100: {"US-KS-2": 8}, RTX4090: {"US-KS-2": 1, "EU-RO-1": 6}}
        self.pods: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] | None = None  # while it is a set, new pods are not listed yet
        self.volumes: dict[str, dict[str, Any]] = {}
        self.refuse: deque[str] = deque()

    def authorize(self, call: Call) -> Reply | None:
        if call.headers.get("authorization") != f"Bearer {KEY}":
            return refused(*REFUSALS["unauthorized"])
        return None

    # --- the catalog

    def level(self, gpu: str, center: str, count: int) -> str:
        return "HIGH" if self.stock[gpu].get(center, 0) >= count else "NONE"

    @route("GET", "/v2/catalog/gpus")
    def list_gpus(self, call: Call) -> Reply:
        asked = "include" in call.query
        if asked and "product" not in call.query:
            return refused(400, "Bad Request", "product is required with include=AVAILABILITY")
        count = int(call.query.get("count", ["1"])[0])
        found = []
        for gpu, item in self.gpus.items():
            places = [
                {"id": center, "name": CENTERS[center], "availability": self.level(gpu, center, count)}
                for center in CENTERS
                if self.stock[gpu].get(center, 0) >= count
            ]
            entry = {"id": gpu, **item}
            if asked:
                entry["availability"] = "HIGH" if places else "NONE"
            if asked and places:  # "omitted entirely when the configuration is unavailable everywhere"
                entry["dataCenters"] = places
            found.append(entry)
        return Reply({"gpus": found})

    @route("GET", "/v2/catalog/datacenters")
    def list_centers(self, call: Call) -> Reply:
        found = []
        for center, name in CENTERS.items():
            entry: dict[str, Any] = {
                "id": center,
                "name": name,
                "region": "EUROPE" if center.startswith("EU") else "NORTH_AMERICA",
                "globalNetwork": True,
                "networkVolumeTypes": ["STANDARD"],
                "compliance": [],
            }
            if "include" in call.query:
                entry["gpuAvailability"] = [
                    {"id": gpu, "name": self.gpus[gpu]["name"], "availability": self.level(gpu, center, 1)}
                    for gpu in self.gpus
                    if center in self.stock[gpu]
                ]
            found.append(entry)
        return Reply({"dataCenters": found})

    # --- pods

    def make_pod(self, name: str, **fields: Any) -> dict[str, Any]:
        number = next(self.numbers)
        pod = {
            "id": f"{number:014x}",
            "name": name,
            "status": "PROVISIONING",
            "actions": ["terminate"],
            "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
            "args": "",
            "disk": 50,
            "mounts": {},
            "ports": ["22/tcp"],
            "env": {},
            "registry": None,
            "gpu": {"id": H100, "count": 8},
            "cloud": "SECURE",
            "dataCenterId": None,
            "cudaVersion": None,
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 23.92,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": None,
            "createdAt": CREATED,
            "startedAt": None,
            **fields,
        }
        self.pods[pod["id"]] = pod
        if self.unlisted is not None:
            self.unlisted.add(pod["id"])
        return pod

    def start(self, pod: dict[str, Any], center: str) -> None:
        """Let a pod be placed and run, with a public port for its SSH."""
        number = int(pod["id"], 16)
        host, port = f"198.51.100.{number % 250 + 1}", 34_000 + number
        pod |= {
            "status": "RUNNING",
            "actions": ["stop", "restart", "terminate"],
            "dataCenterId": center,
            "startedAt": CREATED,
            "ssh": {
                "proxy": {
                    "host": "ssh.runpod.io",
                    "port": 22,
                    "username": f"{pod['id']}-64411eb2",
                    "command": f"ssh {pod['id']}-64411eb2@ssh.runpod.io",
                },
                "direct": {
                    "host": host,
                    "port": port,
                    "username": "root",
                    "command": f"ssh root@{host} -p {port}",
                },
            },
            "runtime": {
                "uptime": 60,
                "ports": [{"private": 22, "public": port, "type": "tcp", "ip": host}],
            },
        }

    @route("GET", "/v2/pods")
    def list_pods(self, call: Call) -> Reply:
        late = self.unlisted or set()
        return Reply({"pods": [pod for key, pod in self.pods.items() if key not in late]})

    @route("POST", "/v2/pods")
    def create_pod(self, call: Call) -> Reply:
        if self.refuse:
            return refused(*REFUSALS[self.refuse.popleft()])
        body = call.body
        gpu = body["gpu"]
        if gpu["id"] not in self.gpus or gpu["count"] > self.gpus[gpu["id"]]["maxCount"]["secure"]:
            return refused(400, "Bad Request", "unknown GPU type or too many GPUs")
        if not any(self.stock[gpu["id"]].get(center, 0) >= gpu["count"] for center in body["dataCenterIds"]):
            return refused(*REFUSALS["no-capacity"])
        kept = ("image", "env", "ports", "cloud", "disk", "mounts", "registry")
        pod = self.make_pod(
            body["name"],
            gpu={"id": gpu["id"], "count": gpu["count"]},
            **{name: body[name] for name in kept if name in body},
        )
        return Reply(pod, 201)

    @route("GET", "/v2/pods/{id}")
    def get_pod(self, call: Call) -> Reply:
        found = self.pods.get(call.arguments["id"])
        return Reply(found) if found else missing("pod")

    @route("DELETE", "/v2/pods/{id}")
    def delete_pod(self, call: Call) -> Reply:
        return Reply(status=204) if self.pods.pop(call.arguments["id"], None) else missing("pod")

    # --- network volumes

    def make_volume(self, name: str, center: str) -> dict[str, Any]:
        volume: dict[str, Any] = {
            "id": f"vol{next(self.numbers):08x}",
            "name": name,
            "size": 50,
            "dataCenter": center,
            "type": "STANDARD",
        }
        self.volumes[volume["id"]] = volume
        return volume

    @route("GET", "/v2/network-volumes")
    def list_volumes(self, call: Call) -> Reply:
        return Reply({"networkVolumes": list(self.volumes.values())})

    @route("DELETE", "/v2/network-volumes/{id}")
    def delete_volume(self, call: Call) -> Reply:
        found = self.volumes.pop(call.arguments["id"], None)
        return Reply(status=204) if found else missing("network volume")
