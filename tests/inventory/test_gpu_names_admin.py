"""Staff say which GPU an unknown spelling is; the overview counts those that wait for them."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from inventory.gpu_names import resolve
from inventory.models import GpuModel, GpuSpelling, PollRun, Provider
from portal.accounts.models import Event, User
from tests.inventory.conftest import NOW, make_account

pytestmark = pytest.mark.usefixtures("supply")

LIST = "admin:inventory_gpuspelling_changelist"


@pytest.fixture
def client(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("staff@example.com", "sublet-test-password"))
    return client


def unknown(spelling: str = "x100", memory: int = 524288, **fields: object) -> GpuSpelling:
    return GpuSpelling.objects.create(
        provider=Provider.objects.get(slug="aws"),
        spelling=spelling,
        memory_mib=memory,
        source="poll",
        example=f"p9.48xlarge: 8 × nvidia {spelling}",
        times_listed=3,
        first_seen_at=NOW,
        last_seen_at=NOW,
        **fields,
    )


def choose(client: Client, row: GpuSpelling, **choice: object):
    values = {
        "form-TOTAL_FORMS": 1,
        "form-INITIAL_FORMS": 1,
        "form-0-id": row.pk,
        "form-0-gpu_model": "",
        "_save": "Save",
        **{f"form-0-{name}": value for name, value in choice.items()},
    }
    return client.post(f"{reverse(LIST)}?state=unknown", values, follow=True)


def test_the_overview_counts_and_links_what_is_unknown(client):
    unknown()
    page = client.get(reverse("admin:index")).content.decode()
    assert "GPUs that we do not know" in page
    assert f"{reverse(LIST)}?state=unknown" in page


def test_unknown_ones_come_first_and_alone_where_asked(client):
    row = unknown()
    everything = client.get(reverse(LIST))
    assert next(iter(everything.context["cl"].result_list)) == row
    alone = client.get(f"{reverse(LIST)}?state=unknown")
    assert list(alone.context["cl"].result_list) == [row]
    page = alone.content.decode()
    assert "p9.48xlarge: 8 × nvidia x100" in page
    assert "GPU model of x100" in page
    assert all(
        not found.ignored and found.gpu_model
        for found in client.get(f"{reverse(LIST)}?state=known").context["cl"].result_list
    )
    assert all(
        found.ignored for found in client.get(f"{reverse(LIST)}?state=ignored").context["cl"].result_list
    )


def test_a_list_of_rows_asks_for_the_models_once(client, django_assert_max_num_queries):
    for number in range(20):
        unknown(f"x{number}")
    with django_assert_max_num_queries(20):
        client.get(reverse(LIST))


def test_a_choice_in_the_list_is_staffs_and_is_kept_in_the_event_log(client):
    row, model = unknown(), GpuModel.objects.get(slug="b300-sxm6-288gb")
    choose(client, row, gpu_model=model.pk)
    row.refresh_from_db()
    assert (row.gpu_model, row.ignored, row.source) == (model, False, "staff")
    assert resolve(provider_id=row.provider_id, gpu_name="X100", memory_mib=524288) == model
    event = Event.objects.get(kind="gpu_spelling.changed")
    assert (event.actor_label, event.after) == ("staff@example.com", {"gpu_model": model.name})


def test_a_spelling_can_be_left_out(client):
    row = unknown()
    choose(client, row, ignored="on")
    row.refresh_from_db()
    assert (row.gpu_model, row.ignored, row.source) == (None, True, "staff")


def test_both_at_once_are_refused_and_nothing_changes(client):
    row = unknown()
    response = choose(client, row, gpu_model=GpuModel.objects.first().pk, ignored="on")
    assert "Choose a GPU model or leave it out, not both." in response.content.decode()
    row.refresh_from_db()
    assert (row.gpu_model, row.ignored, row.source) == (None, False, "poll")
    assert not Event.objects.filter(kind="gpu_spelling.changed").exists()


def test_a_spelling_typed_by_hand_is_folded_and_answers_for_others(client):
    waiting = unknown("super x1", 4096)
    values = {
        "spelling": "  Super-X1 ",
        "memory_mib": "0",
        "gpu_model": GpuModel.objects.get(slug="p4-8gb").pk,
    }
    add = reverse("admin:inventory_gpuspelling_add")
    client.post(add, values)
    row = GpuSpelling.objects.get(provider=None, spelling="super x1")
    assert row.source == "staff"
    # 4 GiB are not a P4 of 8 GB: that one still waits.
    assert GpuSpelling.objects.filter(pk=waiting.pk).exists()
    again = client.post(add, values)
    assert "This spelling is there already" in again.content.decode()
    empty = client.post(add, {**values, "spelling": "--"})
    assert "Enter letters or digits." in empty.content.decode()

    other = unknown("super x1", 8192)
    client.post(reverse("admin:inventory_gpuspelling_change", args=[row.pk]), {**values, "note": "asked"})
    assert not GpuSpelling.objects.filter(pk=other.pk).exists()


def test_a_poll_run_leads_to_the_choice(client):
    run = PollRun.objects.create(
        account=make_account(), state="complete", unknown_types=["p9.48xlarge: 8 × nvidia X100, 524288 MiB"]
    )
    page = client.get(reverse("admin:inventory_pollrun_change", args=[run.pk])).content.decode()
    assert f"{reverse(LIST)}?state=unknown" in page


def test_an_adapter_that_is_not_installed_any_more_stays_a_providers_own(client):
    provider = Provider.objects.create(slug="old", name="Old cloud", kind="gone")
    address = reverse("admin:inventory_provider_change", args=[provider.pk])
    assert "gone (not installed)" in client.get(address).content.decode()
    client.post(address, {"slug": "old", "name": "Renamed", "kind": "gone"})
    provider.refresh_from_db()
    assert (provider.name, provider.kind) == ("Renamed", "gone")
