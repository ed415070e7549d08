"""Google Cloud: answers that are not what Google describes end in a readable error, never in half a list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inventory.providers.base import TAG_TOKEN, LeaseNetwork, OwnedResource, ResourceKind
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.gcp import GcpProvider, operations
from tests.contract.fake_api import Reply
from tests.contract.fake_gcp import FakeGcp
from tests.contract.faults import HTML, Answer, FaultyProxy, faulty
from tests.contract.gcp_data import REGION, RESERVATION, TYPE, machine_type
from tests.inventory.test_gcp_launches import GROUP, NAME, REQUEST, TOKEN, ZONE
from tests.inventory.test_gcp_prices import provider
from tests.inventory.test_gcp_reservations import REQUEST as CAPACITY

Use = Callable[[GcpProvider], Any]
READS: dict[str, Use] = {
    "connection": lambda google: google.test_connection(),
    "regions": lambda google: google.regions(),
    "offers": lambda google: google.offers(REGION),
    "find": lambda google: google.find(region=REGION, tag=TAG_TOKEN, value=TOKEN),
    "describe": lambda google: google.describe(region=REGION, ids=[f"{ZONE}/one"]),
    "describe many": lambda google: google.describe(region=REGION, ids=[f"{ZONE}/m-{n}" for n in range(9)]),
    "owned": lambda google: google.list_owned(region=REGION),
    "offerings": lambda google: google.capacity_offerings(CAPACITY),
    "reservations": lambda google: google.reservations(region=REGION),
    "remove network": lambda google: google.remove_network(
        LeaseNetwork(REGION, "sublet-abcdefg-l0123456789abcdef-1", "")
    ),
}
WRITES: dict[str, Use] = {
    "launch": lambda google: google.launch(GROUP),
    "prepare": lambda google: google.prepare_lease(REQUEST),
    "bound launch": lambda google: google.launch(GROUP.__class__(**_bound())),
}
GARBLED = [None, [], "x", {"items": "x"}, {"items": [7]}, {"items": {"zones/us-central1-a": 7}}]


def _bound() -> dict[str, Any]:
    return {name: getattr(GROUP, name) for name in GROUP.__slots__} | {"reservation_id": RESERVATION}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LOOKS", (0.0,))
    monkeypatch.setattr(operations, "SETTLE_PAUSE", 0.0)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.001)))


@pytest.fixture
def fake() -> Iterator[FakeGcp]:
    fake = FakeGcp()
    yield fake
    fake.close()


@pytest.fixture
def proxy(fake: FakeGcp) -> Iterator[FaultyProxy]:
    with faulty(fake.url) as proxy:
        yield proxy


def behind(fake: FakeGcp, proxy: FaultyProxy) -> GcpProvider:
    return provider(fake, endpoint_url=proxy.url, billing_url=proxy.url)


def error_of(call: Callable[[], Any]) -> str:
    """Return the sentence of what a call raises, or "" where it raises nothing."""
    try:
        call()
    except ProviderError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("answer", GARBLED, ids=repr)
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_garbled_documents_are_refused(fake: FakeGcp, name: str, answer: Any) -> None:
    fake._routes = [(http, path, lambda _call: Reply(answer)) for http, path, _function in fake._routes]
    said = error_of(lambda: (READS | WRITES)[name](provider(fake)))
    # An object without our field is a page without entries, or an answer without advice.
    assert 10 < len(said) < 500 or (isinstance(answer, dict) and not said)


@pytest.mark.parametrize("status", [200, 404, 502])
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_a_page_of_a_proxy_proves_nothing(fake: FakeGcp, proxy: FaultyProxy, name: str, status: int) -> None:
    page = Answer(status, HTML, {"content-type": "text/html"})
    proxy.plant(lambda _: True, times=1_000, answer=page)
    with pytest.raises(ProviderError) as broken:
        (READS | WRITES)[name](behind(fake, proxy))
    assert "<html" not in str(broken.value)


@pytest.mark.parametrize(
    "resource",
    [
        OwnedResource(ResourceKind.INSTANCE, f"{ZONE}/{NAME}", REGION),
        OwnedResource(ResourceKind.VOLUME, f"{ZONE}/{NAME}", REGION),
        OwnedResource(ResourceKind.ADDRESS, f"{REGION}/{NAME}", REGION),
    ],
)
def test_a_page_instead_of_a_deletion_removed_nothing(
    fake: FakeGcp, proxy: FaultyProxy, resource: OwnedResource
) -> None:
    page = Answer(404, HTML, {"content-type": "text/html"})
    proxy.plant(lambda request: request.method == "DELETE", answer=page)
    with pytest.raises(ProviderError) as broken:
        behind(fake, proxy).remove(resource)
    assert broken.value.retryable


def test_a_machine_is_not_gone_because_a_page_says_404(fake: FakeGcp, proxy: FaultyProxy) -> None:
    fake.make_instance(ZONE, "one")
    page = Answer(404, HTML, {"content-type": "text/html"})
    proxy.plant(lambda request: "/instances/one" in request.path, times=1_000, answer=page)
    with pytest.raises(BadAnswer):
        behind(fake, proxy).describe(region=REGION, ids=[f"{ZONE}/one"])


def test_a_page_that_comes_again_ends_the_listing(fake: FakeGcp) -> None:
    fake._routes = [
        (http, path, (lambda _call: Reply({"items": [], "nextPageToken": "2"})))
        if "/machineTypes" in path.pattern
        else (http, path, function)
        for http, path, function in fake._routes
    ]
    with pytest.raises(BadAnswer, match="twice"):
        provider(fake).offers(REGION)


@pytest.mark.parametrize("text", [b'{"items": [', b'{"items": NaN}', b"\xff\xfe", b""])
def test_half_a_document_is_no_answer(fake: FakeGcp, proxy: FaultyProxy, text: bytes) -> None:
    answer = Answer(200, text, {"content-type": "application/json"})
    proxy.plant(lambda request: "/machineTypes" in request.path, times=1_000, answer=answer)
    with pytest.raises(BadAnswer):
        behind(fake, proxy).offers(REGION)


def test_a_hundred_thousand_types_are_read(fake: FakeGcp, monkeypatch: pytest.MonkeyPatch) -> None:
    google = provider(fake)
    many = [machine_type(f"n1-custom-{number}", 1, 1) for number in range(100_000)]
    listing = google.session.listing

    def long_listing(rest: str, **options: Any) -> Iterator[Any]:
        if rest.endswith(f"{ZONE}/machineTypes"):
            yield from many
        yield from listing(rest, **options)

    monkeypatch.setattr(google.session, "listing", long_listing)
    assert TYPE in {each.name for each in google.offers(REGION).instance_types}
