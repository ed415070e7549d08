"""Staff pages of supply: they open, refuse with a reason, and never show a secret."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.sites import site
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from inventory.admin.base import ReadOnlyAdmin
from inventory.models import Commitment, Node, Offer, PollRun, Provider, ProviderAccount, Region, Zone
from inventory.polling import poll_account
from portal.accounts.models import Event, User
from portal.common.crypto import decrypt, encrypt
from tests.inventory.conftest import KEYS, make_account
from tests.inventory.test_deliveries import deliver, make_commitment

pytestmark = pytest.mark.usefixtures("supply")

MODELS = [model for model in site._registry if model._meta.app_label == "inventory"]


@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("staff@example.com")


@pytest.fixture
def client(staff) -> Client:
    client = Client()
    client.force_login(staff)
    return client


def page(model, name: str, *args) -> str:
    return reverse(f"admin:inventory_{model._meta.model_name}_{name}", args=args)


def said(response) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_every_list_and_row_opens(client, now):
    commitment = make_commitment()
    deliver(commitment, 5, now)
    PollRun.objects.create(account=commitment.account, state="failed", error="No answer.", finished_at=now)
    PollRun.objects.create(
        account=commitment.account,
        region=commitment.zone.region,
        state="complete",
        finished_at=now,
        unknown_types=["p9.48xlarge: 8 × nvidia X100, 524288 MiB"],
    )
    for model in MODELS:
        listing = client.get(page(model, "changelist"))
        assert listing.status_code == 200, model
        searched = client.get(page(model, "changelist"), {"q": "us"})
        assert searched.status_code == 200, model
        for row in model.objects.all()[:2]:
            assert client.get(page(model, "change", row.pk)).status_code == 200, model
        addable = not isinstance(site._registry[model], ReadOnlyAdmin)
        assert client.get(page(model, "add")).status_code == (200 if addable else 403), model


def test_health_polls_and_freshness_are_words_with_colours(client, now):
    commitment = make_commitment()
    deliver(commitment, 1, now)
    Node.objects.update(health="draining")
    run = PollRun.objects.create(
        account=commitment.account, region=commitment.zone.region, state="complete", finished_at=now
    )
    offers = client.get(page(Offer, "changelist"), {"q": "p5.48xlarge us-east-1"}).content.decode()
    assert "polled" in offers and "data-stale" in offers  # the poll is old
    assert "$55.0400" in offers
    assert 'data-tone="warn">Draining<' in client.get(page(Node, "changelist")).content.decode()
    assert 'data-tone="good">Complete<' in client.get(page(PollRun, "changelist")).content.decode()
    account = client.get(page(ProviderAccount, "change", run.account_id)).content.decode()
    assert 'data-tone="good">Complete<' in account
    assert 'data-tone="good">stored<' in account


def test_lists_take_as_many_statements_for_many_rows_as_for_few(client, now):
    def counted(model) -> int:
        from django.db import connection

        with CaptureQueriesContext(connection) as queries:
            assert client.get(page(model, "changelist")).status_code == 200
        return len(queries)

    lists = [Commitment, Node, PollRun, ProviderAccount, Zone]
    for number in range(2):
        commitment = make_commitment()
        deliver(commitment, 1, now)
        PollRun.objects.create(account=commitment.account, region=commitment.zone.region, finished_at=now)
        Zone.objects.create(region=commitment.zone.region, code=f"us-east-1{'xy'[number]}")
    few = {model: counted(model) for model in lists}
    for number in range(6):
        commitment = make_commitment()
        deliver(commitment, 3, now)
        PollRun.objects.create(account=commitment.account, region=commitment.zone.region, finished_at=now)
        Zone.objects.create(region=commitment.zone.region, code=f"us-east-1-{number}")
    assert {model: counted(model) for model in lists} == few


# --- accounts -------------------------------------------------------------------------------------
def account_form(**fields) -> dict:
    values = {
        "provider": Provider.objects.get(slug="aws").pk,
        "name": "AWS main",
        "options": '{"regions": ["us-east-1"]}',
        "initial-options": '{"regions": ["us-east-1"]}',
        "delivery_probe": "ssh",
        "enabled": "on",
        "poll_interval": "00:15:00",
    }
    return {**values, **fields}


def test_an_account_is_entered_and_changes_are_in_the_event_log(client, staff):
    response = client.post(page(ProviderAccount, "add"), account_form())
    assert response.status_code == 302, response.context["adminform"].errors
    account = ProviderAccount.objects.get()
    assert account.options == {"regions": ["us-east-1"]}
    client.post(page(ProviderAccount, "change", account.pk), account_form(name="AWS prod"))
    changed = Event.objects.get(kind="provider_account.changed")
    assert (changed.before, changed.after, changed.actor) == (
        {"name": "AWS main"},
        {"name": "AWS prod"},
        staff,
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"options": "[]"}, "Options are a JSON object"),
        ({"options": '{"secret_access_key": "x"}'}, "looks like a secret"),
        ({"options": '{"endpoint_url": "http://169.254.169.254/"}'}, "must begin with https://"),
        ({"options": '{"regions": "us-east-1"}'}, "must be a list"),
        ({"options": '{"x": NaN}'}, "Enter a valid JSON"),
        ({"options": '{"x": 1e999}'}, "Enter a valid JSON"),
        ({"options": r'{"x": "\u0000"}'}, "Enter a valid JSON"),
        ({"options": "[" * 3_000}, "Enter a valid JSON"),
        ({"options": '{"endpoint_url": "https://["}'}, "must begin with https://"),
        ({"options": '{"currency": "Euro"}'}, "currency must be three letters"),
        ({"poll_interval": "00:00:05"}, "at most once a minute"),
    ],
)
def test_an_account_with_bad_options_is_refused(client, fields, says):
    response = client.post(page(ProviderAccount, "add"), account_form(**fields))
    assert says in response.content.decode()
    assert not ProviderAccount.objects.exists()
    assert not Event.objects.exists()


def test_credentials_are_written_and_never_shown(client):
    account = make_account(credentials=encrypt({"access_key_id": "OLDKEY", "secret_access_key": "oldsecret"}))
    url = page(ProviderAccount, "credentials", account.pk)

    for address in (url, page(ProviderAccount, "change", account.pk), page(ProviderAccount, "changelist")):
        shown = client.get(address).content.decode()
        assert "OLDKEY" not in shown
        assert "oldsecret" not in shown
    response = client.post(url, KEYS, follow=True)

    assert said(response) == ["The credentials of aws main were stored, encrypted."]
    assert KEYS["secret_access_key"] not in response.content.decode()
    account.refresh_from_db()
    assert decrypt(account.credentials) == KEYS
    assert KEYS["secret_access_key"] not in str(list(Event.objects.values()))


def test_missing_credentials_are_named_and_nothing_is_kept_in_the_page(client):
    account = make_account(credentials=None)
    response = client.post(
        page(ProviderAccount, "credentials", account.pk),
        {"access_key_id": "AKIATYPED", "secret_access_key": ""},
    )
    assert response.status_code == 400
    assert "AKIATYPED" not in response.content.decode()
    assert "This field is required." in response.content.decode()
    account.refresh_from_db()
    assert account.credentials is None


def test_a_file_as_a_credential_keeps_its_lines_and_is_never_shown(client):
    account = make_account("coreweave", slug="coreweave", credentials=None)
    url = page(ProviderAccount, "credentials", account.pk)
    assert '<textarea name="kubeconfig"' in client.get(url).content.decode()
    refused = client.post(url, {"kubeconfig": "users:\r\n- token: of-nobody\r\n" * 400})
    assert refused.status_code == 400
    assert "of-nobody" not in refused.content.decode()
    client.post(url, {"kubeconfig": "users:\r\n- token: of-nobody\r\n"})
    account.refresh_from_db()
    assert decrypt(account.credentials)["kubeconfig"].splitlines() == ["users:", "- token: of-nobody"]


def test_a_provider_without_an_adapter_has_no_credentials_page(client):
    account = make_account("", slug="other", credentials=None)
    response = client.get(page(ProviderAccount, "credentials", account.pk), follow=True)
    assert "No adapter is installed" in said(response)[0]


def test_the_connection_test_says_who_or_why_not(client, moto_ec2):
    good = make_account(options={"endpoint_url": moto_ec2, "regions": ["us-east-1"]})
    bad = make_account(name="empty", credentials=None)
    response = client.post(
        page(ProviderAccount, "changelist"),
        {"action": "test_connections", "_selected_action": [good.pk, bad.pk]},
        follow=True,
    )
    assert "aws main: connected as arn:aws:sts::123456789012:user/moto." in said(response)
    assert "empty: empty has no credentials: enter them first." in said(response)


def test_poll_now_makes_the_account_due(client, now):
    account = make_account(next_poll_at=datetime(2030, 1, 1, tzinfo=UTC))
    client.post(
        page(ProviderAccount, "changelist"),
        {"action": "poll_now", "_selected_action": [account.pk]},
        follow=True,
    )
    account.refresh_from_db()
    assert account.next_poll_at < datetime.now(UTC)


def test_a_failed_poll_shows_its_error(client, now):
    account = make_account(credentials=None)
    poll_account(account_id=account.pk, now=now)
    assert "aws main has no credentials" in client.get(page(PollRun, "changelist")).content.decode()


# --- commitments ----------------------------------------------------------------------------------
def commitment_form(account: ProviderAccount, **fields) -> dict:
    region, _ = Region.objects.get_or_create(provider=account.provider, code="us-east-1")
    zone, _ = Zone.objects.get_or_create(region=region, code="us-east-1a")
    values = {
        "account": account.pk,
        "instance_type": account.provider.instance_types.get(name="p5.48xlarge").pk,
        "zone": zone.pk,
        "reservation_id": "cr-0123456789abcdef0",
        "quantity": "4",
        "promised_start": "2026-12-01T00:00",
        "promised_end": "2027-12-01T00:00",
        "payment": "monthly",
        "cost_per_node_hour": "17.60",
        "currency": "USD",
        "cutoff": "00:30:00",
        "turnaround": "00:30:00",
        "fabric_size": "4",
        "note": "",
        "deliveries-TOTAL_FORMS": "0",
        "deliveries-INITIAL_FORMS": "0",
    }
    return {**values, **fields}


def test_a_commitment_is_entered_delivered_and_has_its_nodes(client, staff):
    account = make_account()
    response = client.post(page(Commitment, "add"), commitment_form(account))
    assert response.status_code == 302, response.context["adminform"].errors
    commitment = Commitment.objects.get()
    assert commitment.promised.upper == datetime(2027, 12, 1, tzinfo=UTC)
    assert Event.objects.get(kind="commitment.entered").actor == staff
    assert "Record delivery" in client.get(page(Commitment, "change", commitment.pk)).content.decode()

    url = page(Commitment, "delivery", commitment.pk)
    assert 'value="4"' in client.get(url).content.decode()
    answer = client.post(
        url,
        {"nodes": "3", "accepted_from": "2026-12-02T06:00", "note": "Rack 12"},
        follow=True,
    )

    assert said(answer) == ["3 nodes were added to the fleet."]
    assert Node.objects.filter(commitment=commitment).count() == 3
    assert commitment.deliveries.get().recorded_by == staff
    assert "3 / 4" in client.get(page(Commitment, "changelist")).content.decode()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"promised_end": "2026-11-01T00:00"}, "The end must be after the start."),
        ({"promised_end": "2026-12-01T00:40"}, "longer than the cut-off"),
        ({"quantity": "0"}, "A commitment has at least one node."),
        ({"fabric_size": "0"}, "A fabric has at least one node."),
        ({"cost_per_node_hour": "-1"}, "The cost cannot be negative."),
        ({"cost_per_node_hour": "NaN"}, "Enter a number."),
        ({"promised_start": "soon"}, "Enter a valid date/time."),
    ],
)
def test_a_bad_commitment_is_refused_at_its_field(client, fields, says):
    response = client.post(page(Commitment, "add"), commitment_form(make_account(), **fields))
    assert response.status_code == 200
    assert says in response.content.decode()
    assert not Commitment.objects.exists()
    assert not Event.objects.exists()


def test_a_zone_or_type_of_another_provider_is_refused(client):
    other = Zone.objects.create(region=Region.objects.filter(provider__slug="nebius").first(), code="eu-1")
    form = commitment_form(make_account(), zone=other.pk)
    response = client.post(page(Commitment, "add"), form)
    assert "This zone belongs to another provider" in response.content.decode()
    assert not Commitment.objects.exists()


def test_too_many_nodes_are_refused_on_the_page(client, now):
    commitment = make_commitment()
    response = client.post(
        page(Commitment, "delivery", commitment.pk),
        {"nodes": "9", "accepted_from": "2026-12-02T06:00"},
    )
    assert response.status_code == 400
    assert "Only 8 of 8 nodes are still to be delivered." in response.content.decode()
    assert not Node.objects.exists()


def test_what_nodes_were_made_from_cannot_be_changed_afterwards(client, now):
    commitment = make_commitment()
    deliver(commitment, 2, now)
    form = commitment_form(
        commitment.account,
        quantity="6",
        cutoff="05:00:00",
        promised_end="2030-01-01T00:00",
        **{"deliveries-TOTAL_FORMS": "1", "deliveries-INITIAL_FORMS": "1"},
        **{"deliveries-0-id": commitment.deliveries.get().pk, "deliveries-0-commitment": commitment.pk},
    )
    response = client.post(page(Commitment, "change", commitment.pk), form)
    assert response.status_code == 302, response.context["adminform"].errors
    commitment.refresh_from_db()
    assert commitment.quantity == 6
    assert commitment.cutoff == timedelta(minutes=30)
    assert commitment.promised.upper == datetime(2027, 12, 1, tzinfo=UTC)
    refused = client.post(page(Commitment, "change", commitment.pk), {**form, "quantity": "1"})
    assert "2 nodes were delivered already." in refused.content.decode()


def test_only_what_never_came_can_be_cancelled(client, now):
    bare, delivered = make_commitment(), make_commitment()
    deliver(delivered, 1, now)
    response = client.post(
        page(Commitment, "changelist"),
        {"action": "cancel", "_selected_action": [bare.pk, delivered.pk]},
        follow=True,
    )
    assert f"{bare.uid} was cancelled." in said(response)
    assert any("retire them instead" in text for text in said(response))
    assert set(Commitment.objects.exclude(cancelled_at=None)) == {bare}


# --- rights ---------------------------------------------------------------------------------------
def test_staff_without_the_right_and_customers_get_nowhere(now):
    commitment = make_commitment()
    helper = User.objects.create_user("helper@example.com", is_staff=True)
    customer = User.objects.create_user("customer@example.com")
    pages = [
        page(Commitment, "delivery", commitment.pk),
        page(ProviderAccount, "credentials", commitment.account_id),
        page(Commitment, "changelist"),
    ]
    for person, expected in ((helper, 403), (customer, 302)):
        client = Client()
        client.force_login(person)
        for address in pages:
            assert client.get(address).status_code == expected
            assert client.post(address, {"nodes": "1"}).status_code == expected
    assert not Node.objects.exists()


def test_nothing_that_others_refer_to_can_be_deleted(client, now):
    commitment = make_commitment()
    deliver(commitment, 1, now)
    for row in (commitment, commitment.account, Node.objects.get(), Offer.objects.first()):
        assert client.post(page(row, "delete", row.pk), {"post": "yes"}).status_code == 403
        assert type(row).objects.filter(pk=row.pk).exists()
