"""A stateful fake of Together's GPU clusters: it answers what Together's OpenAPI document 2.0.0 says."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from tests.contract.fake_api import Call, FakeApi, Reply, route

KEY = "tgp_v1_fake-project-3f9c1d7a5b"
REGIONS: dict[str, dict[str, Any]] = {
    "us-central-8": {
        "supported_instance_types": ["H100_SXM", "H200_SXM", "B200_SXM"],
        "driver_versions": [
            {"cuda_version": "12.5", "nvidia_driver_version": "555"},
            {"cuda_version": "12.10", "nvidia_driver_version": "575"},
            {"cuda_version": "12.6", "nvidia_driver_version": "560"},
        ],
    },
    "us-central-4": {
        "supported_instance_types": ["H100_SXM"],
        "driver_versions": [{"cuda_version": "12.6", "nvidia_driver_version": "560"}],
    },
}
CREATED = "2026-11-01T10:00:00Z"

# The document has no refusals; the form is that of Together's other calls (ErrorData), the sentences are ours.
REFUSALS = {
    "capacity": (400, "Insufficient capacity for H100_SXM in us-central-8.", "invalid_request_error"),
    "quota": (400, "This request exceeds the GPU quota of your project.", "invalid_request_error"),
    "payment": (402, "Your account has reached its spending limit.", "payment_required"),
    "forbidden": (403, "Members cannot create clusters.", "permission_error"),
    "unauthorized": (401, "Invalid API key provided.", "authentication_error"),
    "internal": (500, "Internal server error.", "server_error"),
    "throttled": (429, "Rate limit exceeded, please slow down.", "rate_limit"),
}


def refused(status: int, message: str, kind: str) -> Reply:
    error = {"message": message, "type": kind, "param": None, "code": None}
    return Reply({"error": error}, status, {"retry-after": "45"} if status == 429 else {})


def missing(what: str) -> Reply:
    return refused(404, f"{what} not found.", "not_found")


class FakeTogether(FakeApi):
    """``refuse`` holds the names of REFUSALS with which the next creations are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.calls.clear()
        self.numbers = itertools.count(1)
        self.regions = {name: dict(item) for name, item in REGIONS.items()}
        self.clusters: dict[str, dict[str, Any]] = {}
        self.unlisted: set[str] | None = None  # while it is a set, new clusters are not listed yet
        self.volumes: dict[str, dict[str, Any]] = {}
        self.refuse: deque[str] = deque()

    def authorize(self, call: Call) -> Reply | None:
        if call.headers.get("authorization") != f"Bearer {KEY}":
            return refused(*REFUSALS["unauthorized"])
        return None

    @route("GET", "/compute/regions")
    def list_regions(self, call: Call) -> Reply:
        return Reply({"regions": [{"name": name, **item} for name, item in self.regions.items()]})

    # --- clusters

    def make_cluster(self, name: str, *, num_gpus: int = 8, **fields: Any) -> dict[str, Any]:
        cluster = {
            "cluster_id": f"c-{next(self.numbers):08x}",
            "cluster_type": "KUBERNETES",
            "region": "us-central-8",
            "gpu_type": "H100_SXM",
            "cluster_name": name,
            "cuda_version": "12.6",
            "nvidia_driver_version": "560",
            "volumes": [],
            "status": "WaitingForControlPlaneNodes",
            "control_plane_nodes": [],
            "gpu_worker_nodes": [],
            "kube_config": "",
            "num_gpus": num_gpus,
            "created_at": CREATED,
            **fields,
        }
        self.clusters[cluster["cluster_id"]] = cluster
        if self.unlisted is not None:
            self.unlisted.add(cluster["cluster_id"])
        return cluster

    def boot(self, cluster: dict[str, Any]) -> None:
        """Let a cluster have its nodes, and be ready."""
        number = int(cluster["cluster_id"][2:], 16)
        cluster["gpu_worker_nodes"] = [
            {
                "node_id": f"n-{number:04x}-{index}",
                "node_name": f"gpu-worker-{index}",
                "status": "Running",
                "host_name": f"gpu-worker-{index}.{cluster['cluster_id']}",
                "num_cpu_cores": 192,
                "num_gpus": 8,
                "memory_gib": 2015.5,
                "networks": [f"10.42.{number % 250}.{index + 1}", f"198.51.100.{(number + index) % 250 + 1}"],
            }
            for index in range(cluster["num_gpus"] // 8)
        ]
        cluster["status"], cluster["kube_config"] = "Ready", "apiVersion: v1\nkind: Config\n"

    @route("POST", "/compute/clusters")
    def create(self, call: Call) -> Reply:
        if self.refuse:
            return refused(*REFUSALS[self.refuse.popleft()])
        body = dict(call.body)
        region = self.regions.get(body["region"])
        if region is None:
            return missing("Region")
        versions = {name: body[name] for name in ("cuda_version", "nvidia_driver_version")}
        if body["num_gpus"] % 8 or versions not in region["driver_versions"]:
            return refused(400, "These values go not together.", "invalid_request_error")
        if body["gpu_type"] not in region["supported_instance_types"]:
            return refused(*REFUSALS["capacity"])
        kept = ("cluster_type", "region", "gpu_type", "capacity_pool_id", "slurm_shm_size_gib")
        cluster = self.make_cluster(
            body["cluster_name"],
            num_gpus=body["num_gpus"],
            **versions,
            **{name: body[name] for name in kept if name in body},
        )
        if wanted := body.get("shared_volume"):
            volume = self.make_volume(wanted["volume_name"], wanted["size_tib"])
            volume["status"] = "bound"
            cluster["volumes"] = [volume]
        return Reply(cluster)

    @route("GET", "/compute/clusters")
    def list_clusters(self, call: Call) -> Reply:
        late = self.unlisted or set()
        return Reply({"clusters": [each for key, each in self.clusters.items() if key not in late]})

    @route("GET", "/compute/clusters/{id}")
    def get_cluster(self, call: Call) -> Reply:
        found = self.clusters.get(call.arguments["id"])
        return Reply(found) if found else missing("Cluster")

    @route("DELETE", "/compute/clusters/{id}")
    def delete_cluster(self, call: Call) -> Reply:
        found = self.clusters.get(call.arguments["id"])
        if found is None:
            return missing("Cluster")
        found["status"] = "Deleting"
        return Reply({"cluster_id": found["cluster_id"]})

    def end(self, cluster_id: str) -> None:
        """Let a cluster be gone; its volumes stay."""
        for volume in self.clusters.pop(cluster_id)["volumes"]:
            volume["status"] = "available"

    # --- volumes

    def make_volume(self, name: str, size: int = 1) -> dict[str, Any]:
        volume = {
            "volume_id": f"v-{next(self.numbers):08x}",
            "volume_name": name,
            "size_tib": size,
            "status": "available",
        }
        self.volumes[volume["volume_id"]] = volume
        return volume

    @route("GET", "/compute/clusters/storage/volumes")
    def list_volumes(self, call: Call) -> Reply:
        return Reply({"volumes": list(self.volumes.values())})

    @route("DELETE", "/compute/clusters/storage/volumes/{id}")
    def delete_volume(self, call: Call) -> Reply:
        found = self.volumes.get(call.arguments["id"])
        if found is None:
            return missing("Volume")
        if found["status"] == "bound":
            return refused(409, "The volume is attached to a cluster.", "invalid_request_error")
        del self.volumes[found["volume_id"]]
        return Reply({"success": True})
