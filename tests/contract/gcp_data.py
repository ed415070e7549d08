"""What our fake of Google Cloud begins with: a key, machine types, SKUs and refusals, as Google words them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.contract.fake_api import Reply

PROJECT = "sublet-test"
REGION, ZONES = "us-central1", ("us-central1-a", "us-central1-b")
ELSEWHERE = "europe-west4-a"
EMAIL = f"sublet@{PROJECT}.iam.gserviceaccount.com"
TOKEN = "ya29.an-example-token"
SERVICE = "6F81-5844-456A"
WWW = "https://www.googleapis.com/compute/v1/"
BASE = f"/compute/v1/projects/{PROJECT}"
TYPE, RESERVATION = "a2-highgpu-8g", "sublet-a2"
CREATED = "2026-11-20T08:00:00.000-07:00"


def make_key() -> tuple[str, str]:
    """Return a private and a public key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


@functools.cache
def keys() -> tuple[tuple[str, str], str]:
    """Return the service account's own keys, and somebody else's private one."""
    return make_key(), make_key()[0]


def key_file(private: str, token_uri: str) -> str:
    return json.dumps(
        {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "0123456789abcdef0123456789abcdef01234567",
            "private_key": private,
            "client_email": EMAIL,
            "client_id": "123456789012345678901",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
    )


def machine_type(
    name: str, cpus: int, memory_gib: int, gpu: str = "", count: int = 0, **more: Any
) -> dict[str, Any]:
    found = {
        "kind": "compute#machineType",
        "id": "1000",
        "name": name,
        "guestCpus": cpus,
        "memoryMb": memory_gib * 1024,
        "architecture": "X86_64",
        "isSharedCpu": False,
        **more,
    }
    if gpu:
        found["accelerators"] = [{"guestAcceleratorType": gpu, "guestAcceleratorCount": count}]
    return found


TYPES = [
    machine_type("a2-highgpu-8g", 96, 680, "nvidia-tesla-a100", 8),
    machine_type(
        "a2-ultragpu-1g",
        12,
        170,
        "nvidia-a100-80gb",
        1,
        bundledLocalSsds={"partitionCount": 1, "defaultInterface": "nvme"},
    ),
    machine_type("n1-standard-8", 8, 30),
    machine_type("a4x-highgpu-4g", 140, 884, "nvidia-gb200", 4, architecture="ARM64"),
]


def sku(
    name: str,
    price: str,
    *,
    unit: str = "h",
    group: str = "GPU",
    usage: str = "OnDemand",
    regions: Iterable[str] = (REGION,),
) -> dict[str, Any]:
    units, _point, fraction = price.partition(".")
    sign = -1 if price.startswith("-") else 1
    return {
        "name": f"services/{SERVICE}/skus/0000-0000-0000",
        "skuId": "0000-0000-0000",
        "description": name,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Storage" if group == "LocalSSD" else "Compute",
            "resourceGroup": group,
            "usageType": usage,
        },
        "serviceRegions": list(regions),
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {
                    "usageUnit": unit,
                    "displayQuantity": 1,
                    "tieredRates": [
                        {
                            "startUsageAmount": 0,
                            "unitPrice": {
                                "currencyCode": "USD",
                                "units": units,
                                "nanos": sign * int(fraction[:9].ljust(9, "0") or 0),
                            },
                        }
                    ],
                },
                "currencyConversionRate": 1,
                "effectiveTime": "2026-11-01T00:00:00Z",
            }
        ],
        "serviceProviderName": "Google",
    }


GPU = "Nvidia Tesla A100 GPU running in Americas"
SPOT_GPU = "Nvidia Tesla A100 GPU attached to Spot Preemptible VMs running in Americas"
SKUS = [
    sku("A2 Instance Core running in Americas", "0.031611", group="CPU"),
    sku("A2 Instance Ram running in Americas", "0.004237", unit="GiBy.h", group="RAM"),
    sku(GPU, "2.933908"),
    sku("Spot Preemptible A2 Instance Core running in Americas", "0.0126", group="CPU", usage="Preemptible"),
    sku(
        "Spot Preemptible A2 Instance Ram running in Americas",
        "0.0017",
        unit="GiBy.h",
        group="RAM",
        usage="Preemptible",
    ),
    sku(SPOT_GPU, "1.1", usage="Preemptible"),
    sku("Commitment v1: Nvidia Tesla A100 GPU running in Americas for 1 Year", "1.8", usage="Commit1Yr"),
    sku("Nvidia Tesla A100 80GB GPU running in Americas", "3.92808"),
    sku("SSD backed Local Storage", "0.08", unit="GiBy.mo", group="LocalSSD"),
]


def refused(status: int, reason: str, message: str, word: str) -> Reply:
    error = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}],
        "status": word,
    }
    return Reply({"error": error}, status)


def missing(path: str) -> Reply:
    return refused(404, "notFound", f"The resource '{path}' was not found", "NOT_FOUND")


# Status, reason, message and status word of a refused call, as Google words them.
REFUSALS = {
    "quota": (
        403,
        "quotaExceeded",
        "Quota 'NVIDIA_A100_GPUS' exceeded.  Limit: 8.0 in region us-central1.",
        "PERMISSION_DENIED",
    ),
    "throttled": (
        403,
        "rateLimitExceeded",
        "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'.",
        "RESOURCE_EXHAUSTED",
    ),
    "forbidden": (
        403,
        "forbidden",
        f"Required 'compute.instances.create' permission for 'projects/{PROJECT}/zones/us-central1-a'",
        "PERMISSION_DENIED",
    ),
    "unauthorized": (
        401,
        "authError",
        "Request had invalid authentication credentials.",
        "UNAUTHENTICATED",
    ),
    "internal": (503, "backendError", "Internal error. Please try again.", "UNAVAILABLE"),
}
# Code and message of a launch that was accepted, and failed.
FAILURES = {
    "stockout": (
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        f"The zone 'projects/{PROJECT}/zones/us-central1-a' does not have enough resources available to "
        "fulfill the request.  Try a different zone, or try again later.",
    )
}
