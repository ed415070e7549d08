"""The catalog that ships with Sublet: GPU models, instance types and list prices as facts."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from inventory.models import GpuModel, InstanceType, Provider
from inventory.rate_cards import ImportResult, read_card, store_card
from portal.common.transactions import durable, require_transaction

DATA = Path(__file__).parent / "data"

# Slug, name and adapter; without an adapter a provider is known from its rate card only.
PROVIDERS = (
    ("aws", "AWS", "aws"),
    ("azure", "Azure", ""),
    ("coreweave", "CoreWeave", ""),
    ("crusoe", "Crusoe", ""),
    ("gcp", "Google Cloud", ""),
    ("lambda", "Lambda", ""),
    ("nebius", "Nebius", ""),
)


@dataclass(frozen=True)
class Shipped:
    """How many rows were new; ``cards`` by provider."""

    providers: int
    gpu_models: int
    instance_types: int
    cards: dict[str, ImportResult] = field(default_factory=dict)


def load_shipped(*, now: datetime) -> Shipped:
    """Add what ships with Sublet and is not there yet; never change what staff or a poll wrote.

    Prices are US dollars per hour of a whole instance, of the dates in
    ``inventory/data/README.md``, and are given only to offers without a price. Doing it
    again changes nothing.
    """
    with durable():
        providers, gpu_models, instance_types = load_facts()
        cards = {}
        for provider in Provider.objects.filter(slug__in=[slug for slug, _, _ in PROVIDERS]):
            with shipped_card(provider.slug).open("rb") as file:
                lines = read_card(provider=provider, file=file)
            cards[provider.slug] = store_card(provider=provider, lines=lines, now=now, only_missing=True)
    return Shipped(providers, gpu_models, instance_types, cards)


def shipped_card(provider: str) -> Path:
    """Return the path of a provider's shipped rate card; it may not exist."""
    return DATA / f"{provider}.csv"


def load_facts() -> tuple[int, int, int]:
    """Part: add missing providers, GPU models and instance types; return how many of each."""
    require_transaction()
    before = [model.objects.count() for model in (Provider, GpuModel, InstanceType)]
    Provider.objects.bulk_create(
        [Provider(slug=slug, name=name, kind=kind) for slug, name, kind in PROVIDERS], ignore_conflicts=True
    )
    GpuModel.objects.bulk_create(
        [
            GpuModel(
                slug=row["slug"],
                name=row["name"],
                vendor=row["vendor"],
                memory_gib=int(row["memory_gib"]),
                family=row["family"],
            )
            for row in _rows("gpu_models.csv")
        ],
        ignore_conflicts=True,
    )
    provider_ids = dict(Provider.objects.values_list("slug", "pk"))
    model_ids = dict(GpuModel.objects.values_list("slug", "pk"))
    InstanceType.objects.bulk_create(
        [
            InstanceType(
                provider_id=provider_ids[row["provider"]],
                name=row["instance_type"],
                gpu_model_id=model_ids[row["gpu_model"]],
                gpus_per_node=int(row["gpus_per_node"]),
                vcpus=int(row["vcpus"]) if row["vcpus"] else None,
                memory_gib=int(row["memory_gib"]) if row["memory_gib"] else None,
                interconnect=row["interconnect"],
            )
            for row in _rows("instance_types.csv")
        ],
        ignore_conflicts=True,
    )
    after = [model.objects.count() for model in (Provider, GpuModel, InstanceType)]
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
