"""A rate card is imported whole or not at all, and its errors name their lines."""

from __future__ import annotations

import io
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from inventory.models import Offer, PricePoint, Provider, Region
from inventory.rate_cards import MAX_BYTES, RateCardError, import_prices
from portal.accounts.models import Event

HEADER = "region,instance_type,usd_per_hour,usd_per_hour_spot\n"

pytestmark = pytest.mark.usefixtures("supply")


def load(text: str | bytes, now, provider: str = "nebius"):
    data = text.encode() if isinstance(text, str) else text
    return import_prices(provider=Provider.objects.get(slug=provider), file=io.BytesIO(data), now=now)


def stored() -> list[tuple]:
    return [
        *Offer.objects.order_by("pk").values_list(
            "pk", "price", "currency", "price_source", "price_seen_at", "changed_at"
        ),
        *PricePoint.objects.order_by("pk").values_list("pk", "offer", "price", "period"),
        *Region.objects.order_by("pk").values_list("pk", "code"),
        *Event.objects.order_by("pk").values_list("pk"),
    ]


def test_new_and_changed_prices_are_stored_with_their_history(now):
    result = load(
        HEADER
        + "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,24.00,9\nmoon-1,gpu-b200-sxm_8gpu-160vcpu-1792gb,44,\n",
        now,
    )

    assert (result.lines, result.regions_added, result.offers_added) == (2, 1, 1)
    assert (result.prices_changed, result.unchanged) == (3, 0)
    offer = Offer.objects.get(
        region__code="eu-north1",
        instance_type__name="gpu-h100-sxm_8gpu-128vcpu-1600gb",
        purchase=Offer.Purchase.ON_DEMAND,
    )
    assert (offer.price, offer.price_source, offer.price_seen_at) == (Decimal("24.00"), "rate_card", now)
    old, new = offer.price_points.order_by("period")
    assert (old.price, old.period.upper) == (Decimal("23.60"), now)
    assert (new.price, new.period.lower, new.period.upper) == (Decimal("24.00"), now, None)
    assert Offer.objects.get(region__code="moon-1").purchase == Offer.Purchase.ON_DEMAND
    assert Event.objects.get(kind="prices.imported").after == {"lines": 2, "prices_changed": 3}


def test_the_same_card_again_writes_nothing(now):
    text = HEADER + "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,24.00,9\n"
    load(text, now)
    before = stored()

    result = load(text, now + timedelta(days=1))

    assert (result.prices_changed, result.unchanged) == (0, 2)
    assert stored() == before


def test_a_second_card_for_the_same_moment_replaces_the_first(now):
    load(HEADER + "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,24,\n", now)
    load(HEADER + "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,25,\n", now)

    points = PricePoint.objects.filter(
        offer__region__code="eu-north1",
        offer__instance_type__name="gpu-h100-sxm_8gpu-128vcpu-1600gb",
        offer__purchase="on_demand",
    ).order_by("period")
    assert [point.price for point in points] == [Decimal("23.60"), Decimal("25")]

    load(HEADER + "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,23.60,\n", now)
    (point,) = points.all()
    assert (point.price, point.period.upper) == (Decimal("23.60"), None)


def test_a_byte_order_mark_blank_lines_and_three_columns_are_fine(now):
    result = load(
        "\ufeffregion,instance_type,usd_per_hour\r\n\r\neu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,24\r\n",
        now,
    )
    assert result.prices_changed == 1


GOOD = "eu-north1,gpu-h100-sxm_8gpu-128vcpu-1600gb,24,9\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 0, "The file is empty."),
        ("  \n \n", 0, "The file is empty."),
        (HEADER, 0, "no prices"),
        ("region,instance_type\n" + GOOD, 1, "“usd_per_hour” is missing"),
        ("region,instance_type,usd_per_hour,eur\n" + GOOD, 1, "“eur” is unknown"),
        ("region,instance_type,usd_per_hour,region\n" + GOOD, 1, "“region” is there twice"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,abc,\n", 3, "“abc” is not a number"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,,\n", 3, "“” is not a number"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,NaN,\n", 3, "“NaN” is not a number"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,inf,\n", 3, "“inf” is not a number"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,1_000,\n", 3, "“1_000” is not a number"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,-3,\n", 3, "“-3” is not above zero"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,0,\n", 3, "“0” is not above zero"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,3,0\n", 3, "usd_per_hour_spot “0”"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,1000000,\n", 3, "too large"),
        (
            HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb,1.000000001,\n",
            3,
            "more than eight decimals",
        ),
        (HEADER + GOOD + "eu-north1,gpu-h900,3,\n", 3, "“gpu-h900” is unknown for Nebius"),
        (HEADER + GOOD + "eu north?,gpu-l40s-a_1gpu-8vcpu-32gb,3,\n", 3, "not a region code"),
        (HEADER + GOOD + GOOD, 3, "on line 2 already"),
        (HEADER + GOOD + "eu-north1,gpu-l40s-a_1gpu-8vcpu-32gb\n", 3, "2 fields instead of 4"),
        (HEADER + GOOD + 'eu-north1,"broken\n', 3, "Not CSV"),
        (HEADER.encode() + GOOD.encode() + b"\xff\xfe,x,1,\n", 3, "Not UTF-8"),
        (HEADER.encode() + b"x" * MAX_BYTES, 0, "larger than 5 MB"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(text, line, says, now):
    before = stored()

    with pytest.raises(RateCardError) as refusal:
        load(text, now)

    assert [number for number, _sentence in refusal.value.lines] == [line]
    assert says in refusal.value.lines[0][1]
    assert stored() == before


def test_every_bad_line_is_reported_and_the_list_stays_readable(now):
    lines = [f"eu-north1,gpu-x{number},nope,\n" for number in range(30)]
    with pytest.raises(RateCardError) as refusal:
        load(HEADER + GOOD + "".join(lines), now)

    assert len(refusal.value.lines) == 60
    assert str(refusal.value).splitlines()[0].startswith("Line 3: ")
    assert str(refusal.value).splitlines()[-1] == "and 40 more."


def test_the_command_imports_and_says_what_it_did(tmp_path: Path, capsys):
    card = tmp_path / "card.csv"
    card.write_text(HEADER + GOOD)
    call_command("import_prices", "nebius", str(card))
    assert "1 lines, 0 regions added, 0 offers added, 2 prices changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nebius"], "Give PROVIDER and FILE.csv"),
        ([], "Give PROVIDER and FILE.csv"),
        (["nebius", "x.csv", "--shipped"], "not both"),
        (["nebula", "x.csv"], "There is no provider “nebula”. Known: aws, azure,"),
        (["nebius", "/nonexistent/card.csv"], "No such file"),
    ],
)
def test_the_command_refuses_with_a_sentence(arguments, says):
    before = stored()
    with pytest.raises(CommandError, match=says):
        call_command("import_prices", *arguments)
    assert stored() == before


def test_the_command_names_bad_lines(tmp_path: Path):
    card = tmp_path / "card.csv"
    card.write_text(HEADER + GOOD + "eu-north1,gpu-h900,NaN,\n")
    with pytest.raises(CommandError) as refusal:
        call_command("import_prices", "nebius", str(card))
    assert "nothing was imported" in str(refusal.value)
    assert "Line 3: usd_per_hour “NaN” is not a number" in str(refusal.value)
