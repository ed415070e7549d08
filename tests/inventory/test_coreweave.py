"""CoreWeave's adapter: which kubeconfig it takes, what it creates, and what its nodes mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from inventory.models import InstanceType
from inventory.providers.base import TAG_LEASE, TAG_SITE, TAG_TOKEN, LaunchGroup, MachineState
from inventory.providers.coreweave import TYPES, CoreWeaveProvider
from inventory.providers.errors import AuthFailed, BadAnswer, ProviderError, QuotaExceeded
from tests.contract.coreweave import POOLS, TOKEN, CoreWeave, creates, kubeconfig, lists_nodes, status
from tests.contract.faults import Answer

TAGS = {TAG_SITE: "site_example", TAG_LEASE: "lse_0123456789abcdef", TAG_TOKEN: "lau_0123456789abcdef"}
GROUP = LaunchGroup(
    client_token=TAGS[TAG_TOKEN], count=3, instance_type="gd-8xh100ib-i128", region="US-EAST-04", tags=TAGS
)


@pytest.fixture
def cloud() -> Iterator[CoreWeave]:
    found = CoreWeave()
    yield found
    found.close()


@pytest.fixture
def provider(cloud) -> CoreWeaveProvider:
    return CoreWeaveProvider(credentials={"kubeconfig": kubeconfig(cloud.proxy.url)}, settings={})


def changed(**changes: Any) -> str:
    """Return a kubeconfig with other values for its cluster, user or context."""
    document = yaml.safe_load(kubeconfig("https://cks.example"))
    for part, value in changes.items():
        if part in document and not isinstance(document[part], list):
            document[part] = value
        else:
            document[f"{part}s"][0][part] = value
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no: [yaml",
        "[]",
        "!!python/object/apply:os.system ['true']",
        changed(**{"current-context": "another"}),
        changed(user={"exec": {"command": "/bin/sh", "apiVersion": "client.authentication.k8s.io/v1beta1"}}),
        changed(user={"tokenFile": "/etc/shadow"}),
        changed(user={"client-key": "/etc/ssl/key", "client-certificate": "/etc/ssl/cert"}),
        changed(cluster={"server": "http://cks.example"}),
        changed(cluster={"server": "file:///etc/passwd"}),
        changed(cluster={"server": "https://cks.example", "certificate-authority": "/etc/hosts"}),
        changed(cluster={"server": "https://cks.example", "insecure-skip-tls-verify": True}),
    ],
)
def test_a_kubeconfig_that_is_not_whole_and_harmless_is_refused(text):
    with pytest.raises(AuthFailed) as refusal:
        CoreWeaveProvider(credentials={"kubeconfig": text}, settings={})
    assert TOKEN not in str(refusal.value)


def test_one_launch_is_one_pool(cloud, provider):
    launched = provider.launch(GROUP)
    (request,) = [request for request in cloud.proxy.requests if creates(request)]
    sent = json.loads(request.body)
    assert sent["spec"] == {
        "instanceType": "gd-8xh100ib-i128",
        "targetNodes": 3,
        "autoscaling": False,
        "nodeLabels": sent["metadata"]["labels"],
    }
    assert sent["metadata"]["labels"]["sublet-token"] == TAGS[TAG_TOKEN]
    name = sent["metadata"]["name"]
    assert [machine.id for machine in launched] == [f"{name}/0", f"{name}/1", f"{name}/2"]


def test_machines_come_as_nodes_join(cloud, provider):
    ids = [machine.id for machine in provider.launch(GROUP)]
    found = provider.describe(region="US-EAST-04", ids=ids)
    assert {machine.state for machine in found} == {MachineState.PENDING}
    cloud.finish_booting()
    found = provider.describe(region="US-EAST-04", ids=ids[:2])
    assert [(machine.id, machine.state, machine.status_ok) for machine in found] == [
        (ids[0], MachineState.RUNNING, True),
        (ids[1], MachineState.RUNNING, True),
    ]
    assert found[0].private_ip == "10.0.0.9"


def test_what_a_pool_complains_of_is_shown(cloud, provider):
    (machine, *_rest) = provider.launch(GROUP)
    name = machine.id.partition("/")[0]
    condition = {
        "type": "AtTarget",
        "status": "False",
        "reason": "CapacityPending",
        "message": "0 of 3 nodes",
    }
    cloud._patch(f"{POOLS}/{name}", {"status": {"conditions": [condition]}})
    (found,) = provider.describe(region="US-EAST-04", ids=[machine.id])
    assert found.reason == "0 of 3 nodes"


def test_the_image_is_the_leases_or_the_accounts(cloud):
    settings = {"image": "ubuntu-22.04-cuda-12"}
    provider = CoreWeaveProvider(credentials={"kubeconfig": kubeconfig(cloud.proxy.url)}, settings=settings)
    provider.launch(GROUP)
    (request,) = [request for request in cloud.proxy.requests if creates(request)]
    assert json.loads(request.body)["spec"]["image"] == "ubuntu-22.04-cuda-12"


@pytest.mark.parametrize(
    ("answer", "error", "doubtful"),
    [
        (status(403, "Forbidden", "exceeds quota"), QuotaExceeded, False),
        (status(403, "Forbidden", "user cannot create nodepools"), AuthFailed, False),
        (status(422, "Invalid", "unknown instanceType"), ProviderError, False),
        (status(500, "InternalError", "no leader"), ProviderError, True),
        (Answer(502, b"<h1>Bad Gateway</h1>", {"content-type": "text/html"}), ProviderError, True),
        (Answer(200, b"<h1>Sign in</h1>", {"content-type": "text/html"}), BadAnswer, True),
    ],
)
def test_a_launch_says_whether_it_may_have_taken_effect(cloud, provider, answer, error, doubtful):
    cloud.proxy.plant(creates, answer=answer)
    with pytest.raises(error) as failure:
        provider.launch(GROUP)
    assert failure.value.doubtful is doubtful


@pytest.mark.parametrize(
    "nodes",
    [
        b'{"items": null}',
        b'{"items": 7}',
        b'{"items": [null]}',
        b'{"items": [{"metadata": {"labels": 7}}]}',
        b"[]",
        b'{"items": [{}]} trailing',
    ],
)
def test_a_garbled_listing_is_an_error_or_names_no_region(cloud, provider, nodes):
    cloud.proxy.plant(lists_nodes, times=9, answer=Answer(200, nodes))
    with pytest.raises(ProviderError):
        provider.offers("US-EAST-04")


def test_another_region_is_refused(provider):
    with pytest.raises(ProviderError, match="not in"):
        provider.offers("US-WEST-01")


@pytest.mark.django_db
def test_the_documented_types_are_in_the_shipped_catalog(supply):
    shipped = {
        item.name: item.gpus_per_node for item in InstanceType.objects.filter(provider__slug="coreweave")
    }
    assert {name: gpus for name, (_cpus, _memory, gpus, *_rest) in TYPES.items()}.items() <= shipped.items()
