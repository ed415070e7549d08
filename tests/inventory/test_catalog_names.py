"""Every GPU of the vendors' catalogs through the shipped spellings: what stays unknown is named here.

The catalogs lie beside the clone (``../shared/data``); without them these tests are skipped.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from inventory.catalog import DATA
from inventory.gpu_names import Spelled, resolve_all
from inventory.models import InstanceType, Provider
from inventory.new_types import learn_types
from inventory.providers.base import InstanceTypeInfo

SHARED = Path(settings.BASE_DIR).parent / "shared" / "data"

# What stays unknown, by provider, and why: staff decide when they are first listed.
UNKNOWN = {
    "azure": {
        # In no table of sizes that Microsoft publishes: some of this series have a fraction of a
        # GPU, and the API calls that one GPU as well.
        *(f"Standard_NC{n}_xl_RTXPRO6000BSE_v6" for n in ("8lds", "16lds", "32ds", "32lds")),
        *(f"Standard_NC{n}_xl_RTXPRO6000BSE_v6" for n in ("64ds", "64lds", "132ds", "132lds")),
        *(f"Standard_NC{n}_xl_RTXPRO6000BSE_v6" for n in ("264ds", "264lds", "324ds", "324lds")),
        # Likewise: a whole A10 or a part of one is not published for each size.
        *(f"Standard_NC{n}ads_A10_v4" for n in (8, 16, 32)),
    },
    "gcp": {
        # Machine types name no GPU, and the list does not say which accelerators these have. Their
        # accelerators are known, so a poll knows them.
        "a3-edgegpu-8g",
        "a3-edgegpu-8g-nolssd",
        "a3-ultragpu-8g-nolssd",
        "a4x-maxgpu-4g-metal",
    },
    # "RTX 6000" is a Quadro of 2018, an Ada of 2022 or a PRO of 2025; the document does not say which.
    "together": {"RTX_6000_PCI"},
    # Of SXM2 or PCIe make, which is not said; and an invented card of the document's own example.
    "vast": {"Tesla V100", "RTX 9999"},
}


def text(path: str) -> str:
    if not SHARED.is_dir():
        pytest.skip(f"The vendors' catalogs are not here: ../shared/data/{path}")
    return (SHARED / path).read_text(encoding="utf-8")


def read(path: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(text(path).splitlines(), delimiter=delimiter))


def listed(name: str, gpu: str = "", count: int = 1, memory: str | int = 0) -> InstanceTypeInfo:
    return InstanceTypeInfo(
        name, vcpus=1, memory_mib=1024, gpu_name=gpu, gpu_count=count, gpu_memory_mib=int(memory)
    )


# As each adapter spells them: the vendor's own words, or none where it has none.


def aws() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/aws/ec2_gpu_instance_types_moto.csv"):
        count, memory = int(row["gpu_count"]), row["gpu_memory_mib"]
        yield listed(row["instance_type"], row["gpu_name"], count, memory)


def azure() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/azure/vm_ondemand_gpu_skus.csv"):
        yield listed(row["arm_sku"].strip())
    for item in json.loads(text("specs/azure/recorded/resource-skus-gpu-2019.json"))["value"]:
        yield listed(item["name"])


def gcp() -> Iterator[InstanceTypeInfo]:
    for path in ("acceleratortyperegion", "acceleratortypezone"):
        for row in read(f"catalog/gcp/{path}.csv", ";"):
            yield listed(f"with-{row['NAME']}", row["NAME"])
    priced = read("catalog/gcp/gce_ondemand_spot_karpenter.csv")
    names = {row["machine_type"] for row in priced}
    names |= {row["NAME"] for row in read("catalog/gcp/machinetypes.csv", ";")}
    for name in names:
        if re.match(r"(a[234]x?|g[24])-", name):
            yield listed(name)


def coreweave() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/coreweave/gpu_instance_types.csv"):
        yield listed(row["instance_type"], count=int(row["gpu_count"]))
    for row in read("catalog/coreweave/prices_ondemand_2026-09-20.csv"):
        yield listed(f"product {row['product']}", row["product"], int(row["gpus"]))


def crusoe() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/crusoe/gpu_prices_per_gpu_hour.csv"):
        yield listed(f"with-{row['gpu_type']}", row["gpu_type"])
    document = text("specs/crusoe/crusoe-v1-swagger2.json")
    for name in set(re.findall(r"\b[abghml]+[0-9]+[a-z0-9-]*\.[0-9]+x\b", document)) - {"c1a.8x"}:
        yield listed(name)


def lambda_() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/lambda/instance_types.csv"):
        yield listed(row["instance_type"], row["gpu_name"], int(row["gpu_count"]), row["gpu_memory_mib"])


def nebius() -> Iterator[InstanceTypeInfo]:
    for row in read("catalog/nebius/gpu_instance_types.csv"):
        platform = row["instance_type"].partition("_")[0]
        yield listed(row["instance_type"], platform, int(row["gpu_count"]), row["gpu_memory_mib"])
        # The same by its bare name, as the catalog has it.
        yield listed(f"bare {row['instance_type']}", row["gpu_name"], 1, row["gpu_memory_mib"])


def together() -> Iterator[InstanceTypeInfo]:
    document = text("specs/together/together-openapi-full.yaml")
    for name in set(re.findall(r"\b[A-Z0-9]+(?:_6000)?_(?:SXM|PCIE|PCI)(?:_INF)?\b", document)):
        yield listed(name, name, 8)


def runpod() -> Iterator[InstanceTypeInfo]:
    document = text("specs/runpod/runpod-rest-v2-openapi.json")
    for name in set(re.findall(r'"((?:NVIDIA|AMD)[^"\\]{2,60})\\?"', document)) - {"NVIDIA RTX 4090"}:
        yield listed(name, name)


def vast() -> Iterator[InstanceTypeInfo]:
    document = text("specs/vast/vast-openapi.yaml")
    for name in set(re.findall(r"\b(?:RTX|H100|A100|H200)[ _](?:A?[0-9]{4}|SXM4?|PCIE|NVL)\b", document)):
        yield listed(name, name)
    yield listed("Tesla V100", "Tesla V100", memory=16384)


CATALOGS = {
    "aws": aws,
    "azure": azure,
    "gcp": gcp,
    "coreweave": coreweave,
    "crusoe": crusoe,
    "lambda": lambda_,
    "nebius": nebius,
    "together": together,
    "runpod": runpod,
    "vast": vast,
}


@pytest.mark.parametrize("slug", CATALOGS)
def test_a_catalog_leaves_exactly_these_unknown(supply, now, slug):
    """A machine type of Google is in our catalog by name; all else must be told by its spelling."""
    provider = Provider.objects.get(slug=slug)
    types = InstanceType.objects.filter(provider=provider)
    infos = {info.name: info for info in CATALOGS[slug]()}
    assert len(infos) >= 5
    if slug != "gcp":
        types.filter(offers=None).delete()
    for name in types.values_list("name", flat=True):
        infos.pop(name, None)

    learned = learn_types(listed=infos.values(), provider_id=provider.pk, now=now)

    unknown = {line.partition(":")[0] for line in learned.unknown}
    assert unknown == UNKNOWN.get(slug, set())


@pytest.mark.parametrize("slug", ["aws", "azure", "coreweave", "lambda", "nebius"])
def test_spellings_and_our_instance_types_say_the_same(supply, slug):
    """The GPU of a type in instance_types.csv is the one that its provider's words mean."""
    with (DATA / "instance_types.csv").open(encoding="utf-8", newline="") as lines:
        shipped = {row["instance_type"]: row for row in csv.DictReader(lines) if row["provider"] == slug}
    infos = {info.name: info for info in CATALOGS[slug]() if info.name in shipped}
    assert len(infos) >= 9
    spelled = {name: Spelled.of(info) for name, info in infos.items()}
    provider_id = Provider.objects.get(slug=slug).pk
    meanings = resolve_all(provider_id=provider_id, asked=spelled.values())
    for name, item in spelled.items():
        model = meanings[item].gpu_model
        assert model, name
        assert model.slug == shipped[name]["gpu_model"], name


def test_every_line_of_instance_types_is_told_by_name_or_gpu_where_its_provider_names_none(supply):
    """Azure and CoreWeave give no GPU: each of our types of theirs has its own spelling."""
    with (DATA / "instance_types.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["provider"] in ("azure", "coreweave", "crusoe")]
    for slug in ("azure", "coreweave", "crusoe"):
        names = {row["instance_type"]: row["gpu_model"] for row in rows if row["provider"] == slug}
        spelled = {name: Spelled.of(listed(name)) for name in names}
        provider_id = Provider.objects.get(slug=slug).pk
        meanings = resolve_all(provider_id=provider_id, asked=spelled.values())
        told = {name: getattr(meanings[item].gpu_model, "slug", "") for name, item in spelled.items()}
        assert told == names
