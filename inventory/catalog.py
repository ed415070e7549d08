"""The catalog that ships with Sublet: GPU models, instance types and list prices as facts."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from django.db import connection
from django.db.models import CharField, F
from django.db.models.functions import Cast

from inventory.gpu_names import forget_answered, normalise
from inventory.models import GpuModel, GpuSpelling, InstanceType, Provider
from inventory.rate_cards import ImportResult, read_card, store_card
from inventory.shipped_prices import add_older_prices, card_date
from inventory.shipped_software import load_software
from inventory.software import architecture_of
from portal.accounts.models import Event
from portal.common.transactions import durable, require_transaction

DATA = Path(__file__).parent / "data"

# Slug, which is the adapter's kind too, and name.
PROVIDERS = (
    ("aws", "AWS"),
    ("azure", "Azure"),
    ("coreweave", "CoreWeave"),
    ("crusoe", "Crusoe"),
    ("gcp", "Google Cloud"),
    ("lambda", "Lambda"),
    ("metal", "Own servers"),
    ("nebius", "Nebius"),
    ("runpod", "RunPod"),
    ("together", "Together AI"),
    ("vast", "Vast.ai"),
)


@dataclass(frozen=True)
class Shipped:
    """How many rows were new; ``cards`` by provider."""

    providers: int
    gpu_models: int
    instance_types: int
    gpu_spellings: int
    stacks: int = 0
    images: int = 0
    cards: dict[str, ImportResult] = field(default_factory=dict)


def load_shipped(*, now: datetime) -> Shipped:
    """Add what ships with Sublet and is not there yet; never change what staff or a poll wrote.

    Prices are US dollars per hour of a whole instance, from the dates in
    ``inventory/data/cards.csv`` on, and are given only to offers that never had one.
    Doing it again changes nothing.
    """
    with durable():
        facts = load_facts()
        cards = {}
        for provider in Provider.objects.filter(slug__in=[slug for slug, _ in PROVIDERS]):
            if not shipped_card(provider.slug).exists():
                continue
            with shipped_card(provider.slug).open("rb") as file:
                lines = read_card(provider=provider, file=file)
            cards[provider.slug] = store_card(
                provider=provider, lines=lines, now=card_date(provider.slug) or now, only_missing=True
            )
            add_older_prices(provider=provider)
        stacks, images = load_software()
    return replace(facts, stacks=stacks, images=images, cards=cards)


def shipped_card(provider: str) -> Path:
    """Return the path of a provider's shipped rate card; it may not exist."""
    return DATA / f"{provider}.csv"


def load_facts() -> Shipped:
    """Part: add missing providers, GPU models, their spellings and instance types; return how many."""
    require_transaction()
    before = _counts()
    Provider.objects.bulk_create(
        [Provider(slug=slug, name=name, kind=slug) for slug, name in PROVIDERS], ignore_conflicts=True
    )
    _give_adapters()
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
                architecture=architecture_of(row["gpu_model"]),
            )
            for row in _rows("instance_types.csv")
        ],
        ignore_conflicts=True,
    )
    _load_spellings(provider_ids, model_ids)
    providers, gpu_models, instance_types, gpu_spellings = (
        now - then for now, then in zip(_counts(), before, strict=True)
    )
    forget_answered()
    return Shipped(providers, gpu_models, instance_types, gpu_spellings)


def _counts() -> list[int]:
    return [model.objects.count() for model in (Provider, GpuModel, InstanceType, GpuSpelling)]


def _give_adapters() -> None:
    """Give providers of earlier versions their adapter; one that staff took away stays away."""
    decided = Event.objects.filter(subject_type="provider", kind="provider.changed", after__has_key="kind")
    Provider.objects.filter(kind="", slug__in=[slug for slug, _ in PROVIDERS]).annotate(
        key=Cast("pk", CharField())
    ).exclude(key__in=decided.values("subject_id")).update(kind=F("slug"))


def _load_spellings(provider_ids: dict[str, int], model_ids: dict[str, int]) -> None:
    """Add what ships, correct what shipped before and answer what polls could not; staff's choices stay."""
    rows = [
        {
            "provider_id": provider_ids[row["provider"]] if row["provider"] else None,
            "spelling": normalise(row["spelling"]),
            "memory_mib": int(row["memory_mib"] or 0),
            "gpu_model_id": model_ids[row["gpu_model"]] if row["gpu_model"] else None,
            "ignored": not row["gpu_model"],
            "note": row["note"],
        }
        for row in _rows("gpu_spellings.csv")
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO inventory_gpuspelling AS s
                (provider_id, spelling, memory_mib, gpu_model_id, ignored, note, source, example, times_listed)
            SELECT n.provider_id, n.spelling, n.memory_mib, n.gpu_model_id, n.ignored, n.note, 'shipped', '', 0
            FROM jsonb_to_recordset(%s::jsonb) AS n(provider_id bigint, spelling text, memory_mib integer,
                gpu_model_id bigint, ignored boolean, note text)
            ON CONFLICT (provider_id, spelling, memory_mib) DO UPDATE
            SET gpu_model_id = EXCLUDED.gpu_model_id, ignored = EXCLUDED.ignored, note = EXCLUDED.note,
                source = 'shipped'
            WHERE s.source <> 'staff' AND (s.gpu_model_id, s.ignored, s.note)
                IS DISTINCT FROM (EXCLUDED.gpu_model_id, EXCLUDED.ignored, EXCLUDED.note)
            """,
            [json.dumps(rows)],
        )


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
