"""The stacks that ship are consistent, and loading them keeps what staff decided."""

from __future__ import annotations

import csv
from datetime import datetime
from fnmatch import fnmatchcase

import pytest
from django.core.management import call_command

from inventory import software
from inventory.catalog import DATA, load_shipped
from inventory.models import Architecture, GpuModel, InstanceType, Region, SoftwareStack, StackImage
from inventory.models.software import check_contents

CLOUDS = {"aws", "azure", "gcp", "coreweave", "lambda", "together", "runpod", "nebius", "crusoe", "vast"}


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def test_files_agree_with_each_other():
    stacks = {row["slug"]: row for row in rows("software_stacks.csv")}
    families = {row["family"] for row in rows("gpu_models.csv")}
    vendors = {row["vendor"] for row in rows("gpu_models.csv")} | {""}
    for row in stacks.values():
        assert set(listed(row["gpu_families"])) <= families
        assert row["gpu_vendor"] in vendors
        assert len(row["name"]) <= 80 and len(row["summary"]) <= 200
    images = rows("stack_images.csv")
    assert {row["stack"] for row in images} == set(stacks)
    for row in images:
        assert row["provider"] in CLOUDS
        assert row["architecture"] in Architecture.values
        assert row["source"].startswith("https://")
        assert row["reference"] == row["reference"].strip() != ""
    keys = [
        (row["stack"], row["provider"], row["region"], row["architecture"], row["instance_types"])
        for row in images
    ]
    assert len(set(keys)) == len(keys)


def test_references_are_spelled_as_each_launch_takes_them():
    shape = {
        "aws": "/aws/service/*",
        "azure": "*:*:*:latest",
        "gcp": "projects/*/global/images/family/*",
        "lambda": "*-24-04",
        "nebius": "ubuntu24.04-*",
        "crusoe": "ubuntu*:latest",
        "runpod": "*/*:*",
        "vast": "*/*:*",
    }
    for row in rows("stack_images.csv"):
        assert fnmatchcase(row["reference"], shape[row["provider"]]), row
        if row["provider"] == "aws":
            arm = row["architecture"] == "arm64"
            assert ("/arm64/" in row["reference"]) == arm
            assert ("x86_64" in row["reference"] or "amd64" in row["reference"]) != arm


@pytest.mark.django_db
def test_types_that_images_name_exist_with_that_processor(now: datetime):
    """All but types that the catalog does not list yet, which nothing can be leased on."""
    load_shipped(now=now)
    unknown = []
    for image in StackImage.objects.exclude(instance_types=[]).select_related("provider"):
        names = InstanceType.objects.filter(provider=image.provider, architecture=image.architecture)
        for pattern in image.instance_types:
            if not any(fnmatchcase(name, pattern) for name in names.values_list("name", flat=True)):
                unknown.append(pattern)
    assert set(unknown) <= {"p6e-gb200.*", "p6e-gb300.*"}


@pytest.mark.django_db
def test_what_is_loaded(now: datetime):
    shipped = load_shipped(now=now)
    assert shipped.stacks == len(rows("software_stacks.csv"))
    known = {"aws", "azure", "gcp", "lambda", "nebius", "crusoe"}
    assert shipped.images >= sum(row["provider"] in known for row in rows("stack_images.csv"))
    for stack in SoftwareStack.objects.all():
        check_contents(stack.contents)
        stack.full_clean()
    for image in StackImage.objects.all():
        image.full_clean()

    east = Region.objects.get(provider__slug="aws", code="us-east-1")

    def offered(name: str) -> set[str]:
        kind = InstanceType.objects.get(provider__slug="aws", name=name)
        return {stack.slug for stack in software.stacks_for([(kind.pk, east.pk)])}

    assert {"ubuntu-24-04-cuda", "pytorch-2-9-ubuntu-24-04", "ubuntu-24-04"} <= offered("p5.48xlarge")
    assert offered("p3dn.24xlarge") == {"ubuntu-24-04"}  # the open driver does not know Volta
    assert "pytorch-2-8-ubuntu-24-04" in offered("p5.48xlarge") - offered("g5g.xlarge")
    [arm] = {
        software.image_for(
            stack=SoftwareStack.objects.get(slug="ubuntu-24-04"), instance_type=kind, region=east
        )
        for kind in InstanceType.objects.filter(name="g5g.xlarge")
    }
    assert arm and "/arm64/" in arm.reference


@pytest.mark.django_db
def test_crusoe_has_an_image_for_sxm_and_one_for_pcie(now: datetime):
    load_shipped(now=now)
    stack = SoftwareStack.objects.get(slug="ubuntu-22-04-cuda")
    region = Region.objects.get(provider__slug="crusoe")
    found = {}
    for kind in InstanceType.objects.filter(provider__slug="crusoe"):
        image = software.image_for(stack=stack, instance_type=kind, region=region)
        found[kind.name] = image.reference.split("-")[2] if image else None
    assert found["h100-80gb-sxm-ib.8x"] == found["a100-80gb-sxm-ib.8x"] == "sxm"
    assert found["a100-80gb.8x"] == found["a100.1x"] == found["l40s-48gb.8x"] == "pcie"
    assert found["mi300x-192gb-ib.8x"] is None


@pytest.mark.django_db
def test_arm_types_are_known_as_such(now: datetime):
    load_shipped(now=now)
    arm = InstanceType.objects.filter(architecture="arm64")
    assert set(arm.values_list("gpu_model__slug", flat=True)) == {
        "t4g-16gb",
        "gh200-96gb",
        "gb200-nvl72-186gb",
    } & set(GpuModel.objects.values_list("slug", flat=True))


@pytest.mark.django_db
def test_loading_again_keeps_what_staff_decided(now: datetime, capsys: pytest.CaptureFixture[str]):
    load_shipped(now=now)
    SoftwareStack.objects.filter(slug="ubuntu-24-04").update(enabled=False, name="Ours", contents=[])
    aws = StackImage.objects.filter(
        stack__slug="ubuntu-24-04-cuda", provider__slug="aws", architecture="x86_64"
    )
    aws.update(reference="ami-ours", instance_types=[], enabled=False)
    count = StackImage.objects.count()

    call_command("import_prices", "--shipped")

    assert "0 software stacks with 0 images added" in capsys.readouterr().out
    assert StackImage.objects.count() == count
    stack = SoftwareStack.objects.get(slug="ubuntu-24-04")
    assert (stack.enabled, stack.name, stack.contents) == (False, "Ours", [])
    assert (aws.get().reference, aws.get().instance_types, aws.get().enabled) == ("ami-ours", [], False)
