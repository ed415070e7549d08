"""Which software can be had where."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from inventory import software
from inventory.models import Architecture, InstanceType, SoftwareStack, StackImage
from portal.common.errors import InvalidInput
from tests.factories import (
    H100,
    make_gpu_model,
    make_image,
    make_instance_type,
    make_provider,
    make_region,
    make_stack,
)

pytestmark = pytest.mark.django_db

EAST, WEST = "aws/us-east-1", "aws/us-west-2"


def offered(*, kind: InstanceType, region: str = EAST) -> list[str]:
    pair = (kind.pk, make_region(region=region).pk)
    return software.stacks_by_type([pair])[pair]


def image(stack: SoftwareStack, region: str = EAST, architecture: str = "x86_64") -> str | None:
    where = make_region(region=region)
    found = software.image_for(stack=stack, provider=where.provider, region=where, architecture=architecture)
    return found.reference if found else None


def test_the_provider_s_row_serves_every_region_but_those_with_one_of_their_own():
    stack = make_stack(images={"aws": "/aws/service/everywhere", EAST: "ami-east"})
    kind = make_instance_type()
    assert (image(stack), image(stack, WEST)) == ("ami-east", "/aws/service/everywhere")
    assert offered(kind=kind) == offered(kind=kind, region=WEST) == ["pytorch"]
    assert image(stack, "lambda/us-east-1") is None


def test_a_region_s_own_row_decides_even_when_it_is_off():
    stack = make_stack(images={"aws": "everywhere", EAST: "ami-east"})
    kind = make_instance_type()
    StackImage.objects.filter(reference="ami-east").update(enabled=False)
    assert image(stack) is None
    assert image(stack, WEST) == "everywhere"
    assert (offered(kind=kind), offered(kind=kind, region=WEST)) == ([], ["pytorch"])
    StackImage.objects.update(enabled=False)
    assert offered(kind=kind, region=WEST) == []


def test_an_image_is_for_one_architecture():
    stack = make_stack(images={"aws": "x86", "aws//arm64": "arm", f"{EAST}/arm64": "arm-east"})
    arm = make_instance_type(gpu_model="gh200-96gb", gpus_per_node=1, name="gh200")
    InstanceType.objects.filter(pk=arm.pk).update(architecture="arm64")
    assert image(stack, architecture="arm64") == "arm-east"
    assert image(stack) == "x86"
    StackImage.objects.filter(architecture="arm64").delete()
    assert offered(kind=arm) == []
    assert offered(kind=make_instance_type()) == ["pytorch"]


def test_a_stack_is_for_the_gpus_that_it_supports():
    make_stack(slug="cuda", gpu_vendor="nvidia")
    make_stack(slug="rocm", gpu_vendor="amd")
    make_stack(slug="ubuntu")
    make_stack(slug="old-cuda", gpu_families=["Volta", "Ampere"])
    nvidia = make_instance_type()
    amd = make_instance_type(gpu_model="mi300x-192gb", name="mi300x")
    make_gpu_model(slug="mi300x-192gb")
    type(amd.gpu_model).objects.filter(slug="mi300x-192gb").update(vendor="amd", family="CDNA 3")
    assert offered(kind=nvidia) == ["cuda", "ubuntu"]
    assert offered(kind=amd) == ["rocm", "ubuntu"]
    assert offered(kind=make_instance_type(gpu_model="a100-sxm4-80gb")) == ["cuda", "old-cuda", "ubuntu"]


def test_a_disabled_stack_is_not_offered_but_still_has_its_images():
    stack = make_stack(enabled=False)
    make_region(region=EAST)
    assert offered(kind=make_instance_type()) == []
    assert software.stacks_for() == []
    assert image(stack) == "ami-1"
    with pytest.raises(InvalidInput) as refused:
        software.stack_for("pytorch")
    assert refused.value.field == "stack"


def test_stacks_for_narrows_by_what_is_asked():
    make_stack(slug="b", position=2, images={"aws": "ami"})
    make_stack(slug="a", position=1, images={"lambda": "family"})
    make_stack(slug="nowhere", images={})
    make_instance_type()
    make_instance_type(provider="lambda", gpus_per_node=1)
    east, europe = make_region(region=EAST), make_region(region="lambda/europe")
    assert [stack.slug for stack in software.stacks_for()] == ["a", "b"]
    assert [stack.slug for stack in software.stacks_for(region_id=east.pk)] == ["b"]
    assert [stack.slug for stack in software.stacks_for(region_id=europe.pk)] == ["a"]
    assert [stack.slug for stack in software.stacks_for(gpu_model=H100, gpus_per_node=1)] == ["a"]
    assert software.stacks_for(gpu_model="b200") == []


def test_many_pairs_cost_one_statement():
    for number in range(5):
        make_stack(slug=f"stack-{number}")
    pairs = [
        (make_instance_type(name=f"type-{number}").pk, make_region(region=f"aws/r-{region}").pk)
        for number in range(4)
        for region in range(4)
    ]
    with CaptureQueriesContext(connection) as captured:
        found = software.stacks_by_type(pairs)
    assert len(captured) == 1
    assert set(map(len, found.values())) == {5}
    assert len(found) == 16


def test_one_row_for_each_place_and_one_default():
    stack = make_stack(is_default=True)
    for again in (
        lambda: make_image(stack=stack),
        lambda: make_stack(slug="other", is_default=True, images={}),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            again()
    assert StackImage.objects.count() == SoftwareStack.objects.count() == 1


def test_a_region_of_another_provider_is_refused():
    row = StackImage(
        stack=make_stack(images={}),
        provider=make_provider(slug="aws"),
        region=make_region(region="lambda/us-east-1"),
        reference="ami-1",
    )
    with pytest.raises(ValidationError) as refused:
        row.full_clean()
    assert set(refused.value.message_dict) == {"region"}


@pytest.mark.parametrize(
    "contents",
    [
        [],
        {},
        "CUDA",
        [{"name": "CUDA"}],
        [{"name": "", "version": "1"}],
        [{"name": "CUDA", "version": 12.8}],
        [{"name": "x" * 61, "version": ""}],
    ],
)
def test_contents_are_names_with_versions(contents):
    stack = SoftwareStack(slug="s", name="S", operating_system="Ubuntu", contents=contents)
    with pytest.raises(ValidationError) as refused:
        stack.full_clean()
    assert set(refused.value.message_dict) == {"contents"}


def test_arm_is_known_by_the_gpu():
    assert software.architecture_of("gh200-96gb") == Architecture.ARM64
    assert software.architecture_of("t4g-16gb") == Architecture.ARM64
    assert software.architecture_of("t4-16gb") == software.architecture_of(H100) == Architecture.X86_64
