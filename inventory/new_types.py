"""Instance types that a provider lists and the catalog has not: added where their GPU is known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from inventory.gpu_names import Spelled, record_unknown, resolve_all
from inventory.models import Architecture, GpuModel
from inventory.prices import lock_catalog
from inventory.providers.base import InstanceTypeInfo
from inventory.software import architecture_of
from portal.accounts import events
from portal.common.text import one_line
from portal.common.transactions import durable

NAMES_IN_EVENT = 50
# What belongs into ``interconnect``: how GPUs of several machines reach each other.
FABRIC = re.compile(r"\b(efa|infiniband|roce|rdma|gpudirect)", re.IGNORECASE)
ARM = re.compile(r"\b(arm64|aarch64|arm)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of types new to us: ``added`` are ids by name, ``unknown`` lines for people."""

    added: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def learn_types(*, listed: Iterable[InstanceTypeInfo], provider_id: int, now: datetime) -> Learned:
    """Add the listed instance types whose GPU is known, and keep the spellings of the others.

    ``listed`` are checked, and none is in the catalog. Types without a whole GPU, and those
    that staff or we leave out, are passed over. Writes nothing where nothing is left.
    """
    asked = {info.name: (info, Spelled.of(info)) for info in listed if info.gpu_count}
    if not asked:
        return Learned()
    meanings = resolve_all(provider_id=provider_id, asked=[item for _info, item in asked.values()])
    unknown = {name: pair for name, pair in asked.items() if not meanings[pair[1]].known}
    add = {
        name: {
            "name": name,
            "gpu_model_id": model.pk,
            "gpus_per_node": info.gpu_count,
            "vcpus": info.vcpus or None,
            "memory_gib": info.memory_mib // 1024 or None,
            "interconnect": interconnect(info.network),
            "architecture": architecture(info, model),
        }
        for name, (info, item) in sorted(asked.items())
        if (model := meanings[item].gpu_model)
    }
    if not add and not unknown:
        return Learned()
    with durable():
        provider = lock_catalog(provider_id)
        added = _add(provider_id, list(add.values()))
        record_unknown(
            provider_id=provider_id,
            seen={item: spelled(info) for info, item in unknown.values()},
            now=now,
        )
        if add:
            events.record(
                kind="instance_types.added",
                subject_type="provider",
                subject_id=provider.slug,
                now=now,
                after={"count": len(add), "names": list(add)[:NAMES_IN_EVENT]},
            )
    return Learned(added=added, unknown=tuple(spelled(info) for info, _item in unknown.values()))


def _add(provider_id: int, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Part: add types in two statements, and return their ids by name.

    A type that another poll has added since is returned where it has as many GPUs.
    """
    values: dict[str, Any] = {"provider": provider_id, "rows": json.dumps(rows)}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO inventory_instancetype (provider_id, name, gpu_model_id, gpus_per_node, vcpus,
                memory_gib, interconnect, architecture)
            SELECT %(provider)s, n.name, n.gpu_model_id, n.gpus_per_node, n.vcpus,
                n.memory_gib, n.interconnect, n.architecture
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS n(name text, gpu_model_id bigint, gpus_per_node integer,
                vcpus integer, memory_gib integer, interconnect text, architecture text)
            ON CONFLICT (provider_id, name) DO NOTHING
            """,
            values,
        )
        cursor.execute(
            """
            SELECT t.name, t.id FROM inventory_instancetype t
            JOIN jsonb_to_recordset(%(rows)s::jsonb) AS n(name text, gpus_per_node integer)
                ON n.name = t.name AND n.gpus_per_node = t.gpus_per_node
            WHERE t.provider_id = %(provider)s
            """,
            values,
        )
        return dict(cursor.fetchall())


def interconnect(network: str) -> str:
    """Return a network as the catalog shows it, or nothing where it is no fabric between GPUs."""
    return one_line(network.strip(), longest=60) if FABRIC.search(network) else ""


def architecture(info: InstanceTypeInfo, model: GpuModel | None) -> Architecture:
    """Return the processor's instruction set; where the provider is silent, what comes with the GPU."""
    if not info.architecture and model is not None:
        return architecture_of(model.slug)
    return Architecture.ARM64 if ARM.search(info.architecture) else Architecture.X86_64


def spelled(info: InstanceTypeInfo) -> str:
    """Return a type as its provider spells it, for people."""
    gpu = one_line(" ".join(part for part in (info.gpu_vendor, info.gpu_name) if part)) or "GPU"
    memory = f", {info.gpu_memory_mib} MiB" if info.gpu_memory_mib else ""
    return f"{one_line(info.name)}: {info.gpu_count} × {gpu}{memory}"
