"""Customers choose software by what it holds, and what they see has it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from inventory.models import ProviderAccount, SoftwareStack, StackImage
from leases.configuration import configure_lease
from leases.models import Allocation, Lease
from portal.accounts.models import Event
from portal.common.errors import InvalidInput
from portal.common.periods import period
from tests.dashboard.conftest import Customer
from tests.factories import H100, make_fleet, make_stack

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def west(customer: Customer) -> None:
    """Two more nodes, in a region where the software has an image."""
    make_fleet(
        nodes=2,
        region="aws/us-west-2",
        available=period(customer.now - timedelta(days=60), customer.now + timedelta(days=365)),
    )
    make_stack(
        images={"aws/us-west-2": "ami-west"}, name="PyTorch 2.7", summary="Ready to train.", is_default=True
    )
    make_stack(slug="elsewhere", name="Elsewhere", images={"lambda": "family"})


def page(customer: Customer) -> str:
    return str(customer.client.get(reverse("dashboard:availability")).content.decode())


def search(customer: Customer, **changes: str) -> str:
    start = timezone.localtime(customer.now + timedelta(days=1))
    asked = {
        "gpu": f"{H100}:8",
        "nodes": "1",
        "earliest": f"{start:%Y-%m-%dT%H:%M}",
        "latest": f"{start + timedelta(days=9):%Y-%m-%dT%H:%M}",
        "duration": "1",
        "unit": "24",
        "region": "",
        "stack": "pytorch",
    }
    answer = customer.client.get(reverse("dashboard:availability"), asked | changes)
    assert answer.status_code == 200
    return str(answer.content.decode())


def slot(html: str) -> dict[str, str]:
    """Return the hidden fields of the first slot."""
    form = html[html.index('name="gpu_model"') :]
    form = form[: form.index("</form>")]
    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', 'type="hidden" ' + form))


def test_the_page_offers_what_it_holds_and_what_we_can_start(customer: Customer, west: None) -> None:
    html = page(customer)
    assert '<option value="pytorch" selected>PyTorch 2.7</option>' in html
    assert "PyTorch 2.7, CUDA 12.8" in html and "Ubuntu 24.04" in html
    assert "Elsewhere" not in html
    StackImage.objects.update(enabled=False)
    assert "PyTorch 2.7" not in page(customer)


def test_only_servers_that_have_it_are_found_and_it_is_booked(customer: Customer, west: None) -> None:
    html = search(customer)
    assert "With PyTorch 2.7." in html
    results = html[html.index('id="results"') :]
    assert "aws/us-west-2" in results and "aws/us-east-1" not in results
    answer = customer.client.post(reverse("dashboard:quote-create"), slot(html))
    assert answer.status_code == 302, answer.content
    lease = Lease.objects.get()
    assert lease.stack and lease.stack.slug == "pytorch"
    assert lease.allocations.get().node.region.code == "us-west-2"
    quote = customer.client.get(answer["Location"]).content.decode()
    assert "Ubuntu 24.04: PyTorch 2.7, CUDA 12.8" in quote
    shown = customer.client.get(reverse("dashboard:lease", args=[lease.uid])).content.decode()
    assert "Ubuntu 24.04: PyTorch 2.7, CUDA 12.8" in shown


def test_without_software_everything_is_found(customer: Customer, west: None) -> None:
    html = search(customer, stack="")
    assert "aws/us-west-2" in html[html.index('id="results"') :]
    assert "aws/us-east-1" in html[html.index('id="results"') :]


def test_near_misses_keep_the_software(customer: Customer, west: None) -> None:
    html = search(customer, region="aws/us-east-1")
    assert "Not like that, but nearly" in html
    assert slot(html)["stack"] == "pytorch"
    assert slot(html)["region"] == "aws/us-west-2"
    make_stack(slug="cuda", name="CUDA 13", images={"aws": "ami"})
    assert "CUDA 13: PyTorch 2.7, CUDA 12.8" in search(customer, region="aws/us-east-1")
    nothing = search(customer, region="aws/us-east-1", nodes="900")
    assert "other software than PyTorch 2.7" in nothing


def test_software_that_is_not_on_the_list_is_named_at_its_field(customer: Customer, west: None) -> None:
    for slug in ("elsewhere", "unheard-of", "x" * 90):
        html = search(customer, stack=slug)
        assert 'id="id_stack_error"' in html


def test_software_that_went_away_books_nothing(customer: Customer, west: None) -> None:
    fields = slot(search(customer))
    SoftwareStack.objects.update(enabled=False)
    answer = customer.client.post(reverse("dashboard:quote-create"), fields, follow=True)
    assert "There is no software" in answer.content.decode()
    answer = customer.client.post(
        reverse("dashboard:quote-create"), fields | {"stack": "a\x00b"}, follow=True
    )
    assert "is not one that we know" in answer.content.decode()
    assert not Lease.objects.exists() and not Allocation.objects.exists()


def settings_of(lease: Lease, **changes: str) -> dict[str, str]:
    return {"name": lease.name, "project": "", "allowed_addresses": "", **changes}


def test_software_can_be_changed_until_the_machines_start(customer: Customer, west: None) -> None:
    make_stack(slug="cuda", name="CUDA 13", images={"aws": "ami"})
    make_stack(slug="east-only", name="East", images={"aws/us-east-1": "ami"})
    customer.client.post(reverse("dashboard:quote-create"), slot(search(customer)))
    lease = Lease.objects.get()
    Lease.objects.update(state="scheduled")
    address = reverse("dashboard:lease", args=[lease.uid])
    html = customer.client.get(address).content.decode()
    assert re.findall(r'<option value="([\w-]*)"( selected)?>', html[html.index('name="stack"') :]) == [
        ("", ""),
        ("cuda", ""),
        ("pytorch", " selected"),
    ]
    for sent, left in (
        ({"stack": "cuda"}, "cuda"),
        ({}, "cuda"),  # a page without the field
        ({"stack": "east-only"}, "cuda"),
        ({"stack": ""}, None),
        ({"stack": "pytorch"}, "pytorch"),
    ):
        customer.client.post(address, settings_of(lease, **sent))
        lease = Lease.objects.select_related("stack").get()
        assert (lease.stack.slug if lease.stack else None) == left, sent
    assert Event.objects.filter(kind="lease.configured", after__stack="cuda").exists()

    # What is no longer offered stays with the lease.
    SoftwareStack.objects.update(enabled=False)
    customer.client.post(address, settings_of(lease, name="renamed", stack="pytorch"))
    lease = Lease.objects.select_related("stack").get()
    assert (lease.name, lease.stack and lease.stack.slug) == ("renamed", "pytorch")


def test_a_lease_is_not_given_software_that_one_of_its_servers_lacks(customer: Customer, west: None) -> None:
    customer.client.post(reverse("dashboard:quote-create"), slot(search(customer)))
    other = make_stack(slug="arm", images={"aws//arm64": "ami"})
    lease = Lease.objects.get()
    with pytest.raises(InvalidInput) as refused:
        configure_lease(
            lease_uid=lease.uid,
            organization=customer.organization,
            actor=customer.user,
            now=customer.now,
            name="renamed",
            stack=other,
        )
    assert refused.value.field == "stack"
    lease.refresh_from_db()
    assert lease.name != "renamed" and lease.stack and lease.stack.slug == "pytorch"


def test_confidential_stock_tells_nothing(customer: Customer, west: None) -> None:
    assert "PyTorch 2.7" in page(customer)
    ProviderAccount.objects.update(stock_confidential=True)
    assert "PyTorch 2.7" not in page(customer)
