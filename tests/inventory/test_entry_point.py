"""A provider in a package of its own: the shipped example is installed, found, polled and launched on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from inventory.models import GpuSpelling, Offer, PollRun, Provider
from inventory.polling import poll_account
from inventory.providers import naming, registry
from inventory.providers.base import TAG_LEASE, TAG_SITE, TAG_TOKEN, LaunchGroup, MachineState
from inventory.providers.base import Provider as Protocol
from inventory.providers.errors import AuthFailed, NoCapacity, NotSupported
from portal.common.crypto import encrypt
from tests.contract.fake_api import Call, FakeApi, Reply, route
from tests.inventory.conftest import NOW, make_account

PACKAGE = settings.BASE_DIR / "examples" / "example-cloud"
KEY = "an-example-api-key"
TAGS = {TAG_SITE: "site_example", TAG_LEASE: "lse_0123456789abcdef", TAG_TOKEN: "lau_0123456789abcdef"}


class Vendor(FakeApi):
    """Example Cloud, as far as it exists."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.in_stock = True
        super().__init__()

    def authorize(self, call: Call) -> Reply | None:
        good = call.headers.get("authorization") == f"Bearer {KEY}"
        return None if good else Reply({"code": "who_are_you"}, 401)

    @route("GET", "/v1/account")
    def account(self, call: Call) -> Reply:
        return Reply({"name": "Northern Lights Compute"})

    @route("GET", "/v1/sizes")
    def sizes(self, call: Call) -> Reply:
        size = {
            "name": "gpu-8h100", "region": "north", "cpus": 192, "memory_gb": 2048, "gpu": "H100 of ours",
            "gpus": 8, "gpu_memory_gb": 80, "usd_per_hour": 19.2, "in_stock": self.in_stock,
        }  # fmt: skip
        return Reply({"sizes": [size]})

    @route("GET", "/v1/servers")
    def listing(self, call: Call) -> Reply:
        page, found = int(call.query["page"][0]), list(self.servers.values())
        more = {"next": page + 1} if len(found) > page * 2 else {}
        return Reply({"servers": found[(page - 1) * 2 : page * 2], **more})

    @route("POST", "/v1/servers")
    def create(self, call: Call) -> Reply:
        if not self.in_stock:
            return Reply({"code": "sold_out"}, 409)
        number = f"srv-{len(self.servers) + 1}"
        self.servers[number] = {
            **call.body,
            "id": number,
            "state": "creating",
            "created": "2026-11-01T12:00:00Z",
        }
        return Reply(self.servers[number], 201)

    @route("DELETE", "/v1/servers/{id}")
    def delete(self, call: Call) -> Reply:
        if call.arguments["id"] not in self.servers:
            return Reply({"code": "gone"}, 404)
        self.servers[call.arguments["id"]]["state"] = "deleted"
        return Reply(None, 204)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package as pip would, into a folder of its own."""
    target, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(PACKAGE, source)  # building leaves files beside the sources
    subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(target),
            str(source),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


@pytest.fixture
def _example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(installed))
    yield
    for name in [name for name in sys.modules if name.startswith("example_cloud_sublet")]:
        del sys.modules[name]


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    found = Vendor()
    yield found
    found.close()


@pytest.fixture
def account(_example, vendor, supply):
    options = {"address": vendor.url, "image": "ubuntu-24.04"}
    return make_account("example", credentials=encrypt({"api_key": KEY}), options=options)


def test_without_the_package_its_kind_is_unknown():
    assert "example" not in registry.kinds()
    with pytest.raises(NotSupported, match="rate card"):
        registry.adapter("example")


@pytest.mark.usefixtures("_example")
def test_with_the_package_it_is_a_kind_like_the_others():
    assert "example" in registry.kinds()
    adapter: Any = registry.adapter("example")
    assert [field.name for field in adapter.credential_fields] == ["api_key"]
    assert isinstance(adapter(credentials={"api_key": KEY}, settings={}), Protocol)


def test_it_is_polled_like_the_others(account, vendor):
    Provider.objects.filter(slug="example").update(name="Example Cloud")
    (run,) = poll_account(account_id=account.pk, now=NOW)
    assert (run.state, run.error) == (PollRun.State.COMPLETE, "")
    assert "H100 of ours" in run.unknown_types[0]
    # Staff say once what the vendor means; the next poll knows it.
    spelling = GpuSpelling.objects.get(provider=account.provider)
    spelling.gpu_model = spelling._meta.get_field("gpu_model").related_model.objects.get(
        slug="h100-sxm5-80gb"
    )
    spelling.save()
    poll_account(account_id=account.pk, now=NOW + timedelta(hours=1))
    offer = Offer.objects.get(instance_type__provider=account.provider)
    assert (offer.instance_type.gpus_per_node, str(offer.price)) == (8, "19.20000000")


def test_it_launches_finds_and_ends(account, vendor):
    cloud = registry.provider_for(account)
    assert cloud.test_connection().account == "Northern Lights Compute"
    group = LaunchGroup(
        client_token=TAGS[TAG_TOKEN], count=1, instance_type="gpu-8h100", region="north", tags=TAGS,
        ssh_public_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey me",),
    )  # fmt: skip
    (launched,) = cloud.launch(group)
    vendor.servers.update(
        {
            f"other-{n}": {**vendor.servers[launched.id], "id": f"other-{n}", "name": f"web-{n}"}
            for n in range(3)
        }
    )
    (found,) = cloud.find(region="north", tag=TAG_TOKEN, value=TAGS[TAG_TOKEN])
    assert (found.id, found.state) == (launched.id, MachineState.PENDING)
    assert naming.same(found.tags[TAG_SITE], TAGS[TAG_SITE])
    assert "ssh-ed25519" in vendor.servers[launched.id]["user_data"]
    assert [owned.id for owned in cloud.list_owned(region="north")] == [launched.id]
    cloud.reclaim(region="north", ids=[launched.id])
    cloud.reclaim(region="north", ids=[launched.id, "srv-99"])
    assert cloud.list_owned(region="north") == []
    assert vendor.servers["other-0"]["state"] == "creating"


def test_its_errors_are_ours(account, vendor):
    vendor.in_stock = False
    cloud = registry.provider_for(account)
    with pytest.raises(NoCapacity):
        cloud.launch(
            LaunchGroup(
                client_token=TAGS[TAG_TOKEN], count=1, instance_type="gpu-8h100", region="north", tags=TAGS
            )
        )
    wrong = make_account(
        "example", name="wrong", credentials=encrypt({"api_key": "no"}), options=account.options
    )
    with pytest.raises(AuthFailed):
        registry.provider_for(wrong).test_connection()
