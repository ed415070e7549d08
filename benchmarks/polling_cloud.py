"""A cloud that answers from memory, after a while; and workers that know it.

.venv/bin/python -m benchmarks.polling_cloud --concurrency 10
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PATH = "benchmarks.polling_cloud.MemoryCloud"


class MemoryCloud:
    """``answers`` maps a region to its catalog; the option ``latency`` delays each, in seconds."""

    kind: ClassVar[str] = "memory"
    capabilities: ClassVar[frozenset[str]] = frozenset({"prices", "availability"})
    credential_fields: ClassVar[tuple[()]] = ()
    answers: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, credentials: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def regions(self) -> list[Any]:
        from inventory.providers.base import RegionInfo

        return [RegionInfo(code) for code in self.settings.get("regions") or self.answers]

    def offers(self, region: str) -> Any:
        if latency := self.settings.get("latency"):
            time.sleep(latency)
            return small(region)
        return self.answers[region]


def small(region: str) -> Any:
    from decimal import Decimal

    from inventory.providers.base import Availability, Catalog, InstanceTypeInfo, OfferInfo, RegionInfo

    names = [f"gpu-{number}" for number in range(100)]
    return Catalog(
        region=RegionInfo(region),
        instance_types=tuple(
            InstanceTypeInfo(name, 64, 512 * 1024, "nvidia", "X", 8, 81920) for name in names
        ),
        offers=tuple(
            OfferInfo(name, region, price=Decimal("9.50"), availability=Availability.AVAILABLE)
            for name in names
        ),
    )


def use() -> None:
    """Make the cloud known to this process."""
    from inventory.providers import registry

    registry.BUILT_IN = {**registry.BUILT_IN, "memory": PATH}


def main() -> None:
    """Run a worker of the polling queue that knows the cloud."""
    import os

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from portal.celery import app

    app.set_default()
    import django

    django.setup()
    use()
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--queues",
            "polling",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            "ERROR",
            *sys.argv[1:],
        ]
    )


if __name__ == "__main__":
    main()
