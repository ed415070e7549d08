"""How the parts of a machine are called in Google's price list.

The Cloud Billing catalog prices cores, memory, GPUs and local SSDs apart, and names each
by a description for people only, such as “Spot Preemptible A2 Instance Core running in
Americas”. There is no field that says which machine a SKU belongs to. The names below are
those of https://cloud.google.com/skus, checked against the mapping of
Cyclenerd/google-cloud-pricing-cost-calculator and prices of GPU machines as composed by
cloudpilot-ai/karpenter-provider-gcp (August 2026). What is not named here has no price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine's hour is made of. ``core`` and ``memory`` are empty where the GPU's SKU holds them."""

    core: str
    memory: str
    gpus: Mapping[str, tuple[str, ...]]  # by accelerator type; any one of the names


def _family(name: str, **gpus: str | tuple[str, ...]) -> Parts:
    named = {
        accelerator.replace("_", "-"): (names,) if isinstance(names, str) else names
        for accelerator, names in gpus.items()
    }
    return Parts(f"{name} Instance Core", f"{name} Instance Ram", MappingProxyType(named))


# By the first parts of the machine type's name, the longest that fits.
FAMILIES: Mapping[str, Parts] = MappingProxyType(
    {
        "a2": _family(
            "A2", nvidia_tesla_a100="Nvidia Tesla A100 GPU", nvidia_a100_80gb="Nvidia Tesla A100 80GB GPU"
        ),
        "a3-highgpu": _family("A3", nvidia_h100_80gb="Nvidia H100 80GB GPU"),
        # Google calls it Plus in some regions and Mega in others.
        "a3-megagpu": _family(
            "A3Plus",
            nvidia_h100_mega_80gb=("Nvidia H100 80GB Mega GPU", "Nvidia H100 80GB Plus GPU"),
        ),
        "a3-ultragpu": _family("A3Ultra", nvidia_h200_141gb="H200 141GB GPU"),
        # One SKU is an eighth of the machine, its cores and memory included.
        "a4-highgpu": Parts("", "", MappingProxyType({"nvidia-b200": ("A4 Nvidia B200 (1 gpu slice)",)})),
        "g2": _family("G2", nvidia_l4="Nvidia L4 GPU"),
        "g4": _family("G4", nvidia_rtx_pro_6000="RTX 6000 96GB"),
    }
)
# Of all families: none of those above has a SKU of its own for it.
LOCAL_SSD = "SSD backed Local Storage"
# https://cloud.google.com/compute/docs/disks/local-ssd: a disk of these families.
LOCAL_SSD_GIB = 375

NAMES = frozenset(
    name
    for parts in FAMILIES.values()
    for name in (parts.core, parts.memory, *(each for names in parts.gpus.values() for each in names))
    if name
) | {LOCAL_SSD}

_DESCRIPTION = re.compile(
    r"(?P<before>Spot Preemptible )?(?P<name>.+?)(?P<after> attached to Spot Preemptible VMs?)?"
    r"(?:(?: running)? in (?P<where>.+))?"
)


def read_description(text: str) -> tuple[str, bool] | None:
    """Return which part a SKU prices, and whether on spot; None for anything that is no part of ours.

    Commitments, reservations (“Reserved …”, “… in Calendar Mode”), Dynamic Workload
    Scheduler (“… attached to DWS …”), sole tenancy, custom shapes and licences have other names.
    """
    match = _DESCRIPTION.fullmatch(text.strip())
    if match is None or match["name"] not in NAMES or "Calendar Mode" in (match["where"] or ""):
        return None
    return match["name"], bool(match["before"] or match["after"])


def parts_of(machine_type: str) -> Parts | None:
    """Return what a machine type is made of, or None for one of a family that is not listed."""
    words = machine_type.split("-")
    for length in range(len(words), 0, -1):
        if found := FAMILIES.get("-".join(words[:length])):
            return found
    return None
