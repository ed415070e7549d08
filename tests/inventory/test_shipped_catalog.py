"""What ships with Sublet is complete, consistent and never overwrites what staff entered."""

from __future__ import annotations

import csv
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db import transaction

from inventory.catalog import DATA, PROVIDERS, load_shipped
from inventory.models import GpuModel, InstanceType, Offer, PricePoint, Provider
from inventory.providers import registry
from inventory.providers.errors import NotSupported
from portal.accounts import events

CARDS = ("aws", "azure", "coreweave", "crusoe", "gcp", "lambda", "nebius")


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_agree_with_each_other():
    models = {row["slug"] for row in rows("gpu_models.csv")}
    types = {(row["provider"], row["instance_type"]) for row in rows("instance_types.csv")}
    spelled = {row["gpu_model"] for row in rows("gpu_spellings.csv")} - {""}
    assert {row["gpu_model"] for row in rows("instance_types.csv")} | spelled == models
    assert len(types) == len(rows("instance_types.csv"))
    assert {row["provider"] for row in rows("gpu_spellings.csv")} - {""} == {
        slug for slug, _name in PROVIDERS
    } - {"metal"}
    for slug in CARDS:
        text = (DATA / f"{slug}.csv").read_text()
        assert text.startswith("region,instance_type,usd_per_hour,usd_per_hour_spot\n")
        card = rows(f"{slug}.csv")
        assert card
        assert {(slug, row["instance_type"]) for row in card} <= types
        for row in card:
            assert not row["usd_per_hour_spot"] or Decimal(row["usd_per_hour_spot"]) < Decimal(
                row["usd_per_hour"]
            )


@pytest.mark.django_db
def test_loading_twice_adds_nothing(now):
    first = load_shipped(now=now)
    counts = [model.objects.count() for model in (Provider, GpuModel, InstanceType, Offer, PricePoint)]

    second = load_shipped(now=now)

    assert (first.providers, first.gpu_models, first.instance_types) == (11, 89, 164)
    assert first.gpu_spellings == len(rows("gpu_spellings.csv"))
    assert sorted(first.cards) == list(CARDS)
    assert (second.providers, second.gpu_models, second.instance_types, second.gpu_spellings) == (0, 0, 0, 0)
    assert all(result.prices_changed == 0 for result in second.cards.values())
    assert counts == [
        model.objects.count() for model in (Provider, GpuModel, InstanceType, Offer, PricePoint)
    ]
    # Every cloud has an H100 or its like with a price, so that they can be compared.
    priced = Offer.objects.filter(instance_type__gpu_model__slug="h100-sxm5-80gb", price__gt=0)
    assert set(priced.values_list("region__provider__slug", flat=True)) == set(CARDS)


@pytest.mark.django_db
def test_staff_entries_are_kept(now):
    load_shipped(now=now)
    Offer.objects.filter(price__isnull=False).update(price=Decimal(7))
    InstanceType.objects.filter(name="p5.48xlarge").update(interconnect="ours")

    call_command("import_prices", "--shipped")

    assert set(Offer.objects.values_list("price", flat=True)) == {Decimal(7)}
    assert InstanceType.objects.get(name="p5.48xlarge").interconnect == "ours"


@pytest.mark.django_db
def test_the_command_adds_everything(capsys):
    call_command("import_prices", "--shipped")
    said = capsys.readouterr().out
    assert "11 providers, 89 GPU models, 492 GPU spellings and 164 instance types added" in said
    assert "aws: 101 lines, 3 regions added" in said


@pytest.mark.django_db
def test_a_provider_of_an_earlier_version_gets_its_adapter(now):
    """It could only be without one then; where staff took an adapter away, none comes back."""
    for slug, kind in (("azure", ""), ("gcp", ""), ("vast", "their-own"), ("else", "")):
        Provider.objects.create(slug=slug, name=slug, kind=kind)
    with transaction.atomic():
        events.record(
            kind="provider.changed",
            subject_type="provider",
            subject_id=str(Provider.objects.get(slug="gcp").pk),
            now=now,
            before={"kind": "gcp"},
            after={"kind": ""},
        )

    load_shipped(now=now)

    kinds = dict(Provider.objects.values_list("slug", "kind"))
    assert (kinds["azure"], kinds["gcp"], kinds["vast"], kinds["else"]) == ("azure", "", "their-own", "")
    assert Provider.objects.get(slug="azure").name == "azure"


def test_a_shipped_provider_without_its_adapter_says_so(monkeypatch):
    gone = {slug: f"inventory.providers.not_here_{slug}.Provider" for slug, _name in PROVIDERS}
    monkeypatch.setattr(registry, "BUILT_IN", gone)
    for slug, _name in PROVIDERS:
        with pytest.raises(NotSupported, match=f"No adapter is installed for “{slug}”"):
            registry.adapter(slug)
