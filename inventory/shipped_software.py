"""The software stacks that ship with Sublet, and what each provider calls them."""

from __future__ import annotations

import csv
from pathlib import Path

from inventory.models import Provider, Region, SoftwareStack, StackImage
from portal.common.transactions import require_transaction

DATA = Path(__file__).parent / "data"


def load_software() -> tuple[int, int]:
    """Part: add the stacks and images that are not there yet; return how many of each.

    What staff changed or disabled stays as it is: where a stack has any image for a
    provider, region and processor, none is added there. An image whose provider or
    region is not in the catalog is left out until it is: call it after those were loaded.
    """
    require_transaction()
    before = SoftwareStack.objects.count(), StackImage.objects.count()
    SoftwareStack.objects.bulk_create(
        [
            SoftwareStack(
                slug=row["slug"],
                name=row["name"],
                summary=row["summary"],
                operating_system=row["operating_system"],
                contents=[_part(text) for text in _listed(row["contents"])],
                gpu_vendor=row["gpu_vendor"],
                gpu_families=_listed(row["gpu_families"]),
                position=int(row["position"]),
            )
            for row in _rows("software_stacks.csv")
        ],
        ignore_conflicts=True,
    )
    stacks = dict(SoftwareStack.objects.values_list("slug", "pk"))
    providers = dict(Provider.objects.values_list("slug", "pk"))
    regions = {
        (provider, code): pk
        for provider, code, pk in Region.objects.values_list("provider__slug", "code", "pk")
    }
    known = set(StackImage.objects.values_list("stack", "provider", "region", "architecture"))
    images = [
        StackImage(
            stack_id=stacks[row["stack"]],
            provider_id=providers[row["provider"]],
            region_id=regions[row["provider"], row["region"]] if row["region"] else None,
            architecture=row["architecture"],
            instance_types=_listed(row["instance_types"]),
            reference=row["reference"],
            login_user=row["login_user"],
            source=row["source"],
        )
        for row in _rows("stack_images.csv")
        if row["provider"] in providers and (not row["region"] or (row["provider"], row["region"]) in regions)
    ]
    StackImage.objects.bulk_create(
        [
            image
            for image in images
            if (image.stack_id, image.provider_id, image.region_id, image.architecture) not in known
        ],
        ignore_conflicts=True,
    )
    return SoftwareStack.objects.count() - before[0], StackImage.objects.count() - before[1]


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _part(text: str) -> dict[str, str]:
    name, _equals, version = text.partition("=")
    return {"name": name, "version": version}
