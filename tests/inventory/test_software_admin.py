"""Staff decide what is offered where: pages open, refuse with a reason, and leave events."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from inventory.models import SoftwareStack, StackImage
from portal.accounts.models import Event, User
from tests.factories import make_fleet, make_image, make_lease, make_region, make_stack

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("staff@example.com"))
    return client


def page(model: str, name: str, *args: int) -> str:
    return reverse(f"admin:inventory_{model}_{name}", args=args)


def form(stack: SoftwareStack, **changes: str) -> dict[str, str]:
    """Return what the stack's page sends, with its images."""
    images = list(stack.images.order_by("pk"))
    sent = {
        "slug": stack.slug,
        "name": stack.name,
        "summary": "",
        "operating_system": stack.operating_system,
        "contents": "PyTorch = 2.7\nCUDA = 12.8",
        "gpu_vendor": "",
        "gpu_families": "",
        "enabled": "on",
        "position": "100",
        "images-TOTAL_FORMS": str(len(images)),
        "images-INITIAL_FORMS": str(len(images)),
    }
    for number, image in enumerate(images):
        sent |= {
            f"images-{number}-id": str(image.pk),
            f"images-{number}-stack": str(stack.pk),
            f"images-{number}-provider": str(image.provider_id),
            f"images-{number}-region": str(image.region_id or ""),
            f"images-{number}-architecture": image.architecture,
            f"images-{number}-instance_types": ", ".join(image.instance_types),
            f"images-{number}-reference": image.reference,
            f"images-{number}-login_user": image.login_user,
            f"images-{number}-enabled": "on",
        }
    return sent | changes


def test_the_list_says_what_each_holds_and_who_counts_on_it(client: Client) -> None:
    make_fleet(nodes=1)
    make_stack(name="PyTorch 2.7")
    make_stack(slug="bare", images={})
    make_lease(stack="pytorch")
    html = client.get(page("softwarestack", "changelist")).content.decode()
    assert "PyTorch 2.7, CUDA 12.8" in html
    assert '<td class="field-leases_">1</td>' in html
    assert 'data-tone="bad">none<' in html


def test_the_page_of_a_stack_shows_where_it_is_offered(client: Client) -> None:
    make_fleet(nodes=2)
    make_fleet(nodes=3, region="lambda/us-east-1")
    stack = make_stack(images={"aws": "ami-everywhere"})
    html = client.get(page("softwarestack", "change", stack.pk)).content.decode()
    assert "ami-everywhere</a>" in html
    assert "lambda/us-east-1" in html and "none: not offered" in html
    assert client.get(page("softwarestack", "add")).status_code == 200


def test_contents_are_written_as_lines(client: Client) -> None:
    stack = make_stack(images={})
    sent = form(stack, contents="PyTorch = 2.9\n\n CUDA=13.0 \nDriver", gpu_families="Hopper, Blackwell")
    assert client.post(page("softwarestack", "change", stack.pk), sent).status_code == 302
    stack.refresh_from_db()
    assert stack.holds == ["PyTorch 2.9", "CUDA 13.0", "Driver"]
    assert stack.gpu_families == ["Hopper", "Blackwell"]
    html = client.get(page("softwarestack", "change", stack.pk)).content.decode()
    assert "PyTorch = 2.9\nCUDA = 13.0\nDriver</textarea>" in html
    event = Event.objects.get(kind="software_stack.changed")
    assert set(event.after) == {"contents", "gpu_families"}


def test_an_image_is_changed_on_its_stack_s_page_and_leaves_an_event(client: Client) -> None:
    stack = make_stack(images={"aws": "ami-1"})
    sent = form(stack, **{"images-0-reference": "ami-2", "images-0-instance_types": "p5.*, p5en.48xlarge"})
    assert client.post(page("softwarestack", "change", stack.pk), sent).status_code == 302
    image = stack.images.get()
    assert (image.reference, image.instance_types) == ("ami-2", ["p5.*", "p5en.48xlarge"])
    event = Event.objects.get(kind="stack_image.changed")
    assert event.after == {
        "stack": "pytorch",
        "reference": "ami-2",
        "instance_types": ["p5.*", "p5en.48xlarge"],
    }
    assert event.actor and event.actor.email == "staff@example.com"
    assert not Event.objects.filter(kind="software_stack.changed").exists()


def test_bad_entries_are_named_and_change_nothing(client: Client) -> None:
    make_stack(slug="other", is_default=True, images={})
    stack = make_stack(images={"aws": "ami-1"})
    elsewhere = make_region(region="lambda/us-east-1")
    for changes, words in (
        ({"contents": ""}, "This field is required."),
        ({"contents": "= 2.9"}, "Each part has a name and a version"),
        ({"is_default": "on"}, "is violated"),
        ({"images-0-region": str(elsewhere.pk)}, "Choose a region of this provider"),
        ({"images-0-reference": ""}, "This field is required."),
    ):
        answer = client.post(page("softwarestack", "change", stack.pk), form(stack, **changes))
        assert answer.status_code == 200, changes
        assert words in answer.content.decode(), changes
    assert stack.images.get().reference == "ami-1"
    assert not Event.objects.exists()


def test_stacks_are_switched_on_and_off(client: Client) -> None:
    stack = make_stack()
    for action, enabled in (("disable", False), ("disable", False), ("enable", True)):
        sent = {"action": action, "_selected_action": [stack.pk]}
        assert client.post(page("softwarestack", "changelist"), sent).status_code == 302
        stack.refresh_from_db()
        assert stack.enabled == enabled
    assert Event.objects.filter(kind="software_stack.changed").count() == 2


def test_images_are_listed_switched_and_checked(client: Client) -> None:
    stack = make_stack(images={"aws": "ami-1"})
    make_image(stack=stack, region="us-east-1", reference="ami-east", instance_types=["p5.*"])
    html = client.get(page("stackimage", "changelist")).content.decode()
    assert "ami-east" in html and "us-east-1" in html and "p5.*" in html
    assert client.get(page("stackimage", "changelist"), {"q": "ami-east"}).status_code == 200
    images = list(StackImage.objects.values_list("pk", flat=True))
    for action in ("disable", "checked", "enable"):
        sent = {"action": action, "_selected_action": images}
        assert client.post(page("stackimage", "changelist"), sent).status_code == 302
        if action == "disable":
            assert not StackImage.objects.filter(enabled=True).exists()
    assert not StackImage.objects.filter(enabled=False).exists()
    assert not StackImage.objects.filter(checked_on=None).exists()
    assert Event.objects.filter(kind="stack_image.changed").count() == 6
    assert client.get(page("stackimage", "change", images[0])).status_code == 200


def test_software_of_a_lease_is_not_deleted(client: Client) -> None:
    make_fleet(nodes=1)
    stack = make_stack()
    make_lease(stack="pytorch")
    answer = client.post(page("softwarestack", "delete", stack.pk), {"post": "yes"})
    assert "Cannot delete software stack" in answer.content.decode()
    assert SoftwareStack.objects.exists() and StackImage.objects.exists()
