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
    return [stack.slug for stack in software.stacks_by_type([pair])[pair]]


def image(stack: SoftwareStack, region: str = EAST, kind: InstanceType | None = None) -> str | None:
    found = software.image_for(
        stack=stack, instance_type=kind or make_instance_type(), region=make_region(region=region)
    )
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
    assert image(stack, kind=arm) == "arm-east"
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
    assert image(stack) == "ami-1"
    with pytest.raises(InvalidInput) as refused:
        software.stack_for("pytorch")
    assert refused.value.field == "stack"


def test_stacks_for_any_of_several_places():
    make_stack(slug="b", position=2, images={"aws": "ami"})
    make_stack(slug="a", position=1, images={"lambda": "family"})
    make_stack(slug="nowhere", images={})
    ours = (make_instance_type().pk, make_region(region=EAST).pk)
    theirs = (make_instance_type(provider="lambda").pk, make_region(region="lambda/europe").pk)
    assert [stack.slug for stack in software.stacks_for([ours, theirs])] == ["a", "b"]
    assert [stack.slug for stack in software.stacks_for([ours])] == ["b"]
    assert software.stacks_for([(ours[0], theirs[1])]) == software.stacks_for([]) == []


def test_an_image_may_be_for_some_types_only():
    stack = make_stack(images={"aws": "all"})
    sxm, pcie = make_instance_type(name="h100-sxm.8x"), make_instance_type(name="h100_pcie.8x")
    make_image(stack=stack, reference="sxm", instance_types=["h100-sxm.*", "other"])
    assert (image(stack, kind=sxm), image(stack, kind=pcie)) == ("sxm", "all")
    make_image(stack=stack, region="us-east-1", reference="east")
    assert image(stack, kind=sxm) == "east"  # the region comes first
    make_image(
        stack=stack, region="us-east-1", reference="exact", instance_types=["h100_pcie.8x"], enabled=False
    )
    assert (image(stack, kind=sxm), image(stack, kind=pcie)) == ("east", None)
    assert (offered(kind=sxm), offered(kind=pcie)) == (["pytorch"], [])
    assert offered(kind=pcie, region=WEST) == ["pytorch"]
    StackImage.objects.filter(instance_types=[]).delete()
    assert (offered(kind=sxm), offered(kind=make_instance_type())) == (["pytorch"], [])


def test_a_name_is_not_a_pattern_but_for_its_star():
    stack = make_stack(images={})
    make_image(stack=stack, instance_types=["gpu_8x_h100", "a%", "b[1]"])
    assert image(stack, kind=make_instance_type(name="gpu_8x_h100")) == "ami-1"
    for name in ("gpu-8x-h100", "gpu_8x_h100_sxm", "xgpu_8x_h100", "ab", "b1"):
        assert image(stack, kind=make_instance_type(name=name)) is None


def test_many_pairs_cost_two_statements():
    for number in range(5):
        make_stack(slug=f"stack-{number}")
    pairs = [
        (make_instance_type(name=f"type-{number}").pk, make_region(region=f"aws/r-{region}").pk)
        for number in range(4)
        for region in range(4)
    ]
    with CaptureQueriesContext(connection) as captured:
        found = software.stacks_by_type(pairs)
    assert len(captured) == 2
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
