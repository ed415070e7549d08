"""Google Cloud: machines put together from SKUs, and the catalog of a region."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from inventory.providers.base import Availability, OfferInfo, PurchaseOption
from inventory.providers.errors import BadAnswer, ProviderError
from inventory.providers.gcp import GcpProvider, skus
from inventory.providers.gcp.prices import PriceList
from tests.browser.chromium import BASE_DIR
from tests.contract.fake_gcp import FakeGcp
from tests.contract.gcp_data import (
    EMAIL,
    PROJECT,
    REGION,
    SKUS,
    TYPE,
    ZONES,
    key_file,
    keys,
    machine_type,
    sku,
)
from tests.contract.prism import vendor_document

SHARED = BASE_DIR.parent / "shared" / "data" / "catalog" / "gcp"
OD, SPOT = PurchaseOption.ON_DEMAND, PurchaseOption.SPOT
A2 = {"vcpus": 96, "memory_mib": 680 * 1024, "accelerators": {"nvidia-tesla-a100": 8}}


@pytest.fixture
def fake() -> Iterator[FakeGcp]:
    fake = FakeGcp()
    yield fake
    fake.close()


def provider(fake: FakeGcp, **settings: Any) -> GcpProvider:
    return GcpProvider(
        credentials={"service_account_key": key_file(keys()[0][0], f"{fake.url}/token")},
        settings={
            "endpoint_url": fake.url,
            "billing_url": fake.url,
            "requests_per_second": 10_000,
            **settings,
        },
    )


def listed(rows: list[dict[str, Any]]) -> PriceList:
    found = PriceList("USD")
    for row in rows:
        found.add(row)
    return found


def offers(fake: FakeGcp, **settings: Any) -> dict[tuple[str, PurchaseOption], OfferInfo]:
    found = provider(fake, **settings).offers(REGION)
    return {(each.instance_type, each.purchase_option): each for each in found.offers}


def recorded() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(
        vendor_document("gcp/cloudbilling-skus-a100-sample.json").read_text(), parse_float=Decimal
    )["skus"]
    return rows


def known() -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
    path = SHARED / "gce_ondemand_spot_karpenter.csv"
    if not SHARED.parent.parent.is_dir():
        pytest.skip(f"The catalog is not here: ../shared/data/catalog/gcp/{path.name}")
    with path.open() as lines:
        return {
            (row["region"], row["machine_type"]): (
                Decimal(row["usd_per_hour_on_demand"]),
                Decimal(row["usd_per_hour_spot"] or 0),
            )
            for row in csv.DictReader(lines)
        }


# --- against what others recorded


@pytest.mark.parametrize(
    ("name", "vcpus", "memory", "gpus"),
    [
        ("a2-highgpu-1g", 12, 85, 1),
        ("a2-highgpu-2g", 24, 170, 2),
        ("a2-highgpu-4g", 48, 340, 4),
        ("a2-highgpu-8g", 96, 680, 8),
        ("a2-megagpu-16g", 96, 1360, 16),
    ],
)
def test_recorded_skus_make_the_known_price_of_each_a2_machine(
    name: str, vcpus: int, memory: int, gpus: int
) -> None:
    composed = listed(recorded()).machine(
        name,
        region=REGION,
        option=OD,
        vcpus=vcpus,
        memory_mib=memory * 1024,
        accelerators={"nvidia-tesla-a100": gpus},
    )
    assert composed == known()[REGION, name][0]


@pytest.mark.parametrize("option", [OD, SPOT])
def test_two_g2_machines_tell_the_prices_of_all_others_in_every_region(option: PurchaseOption) -> None:
    """Cores and memory of G2 go together (4 GiB each), so two machines of one GPU tell both parts."""
    table, column = known(), 0 if option == OD else 1
    sizes = {4: 1, 8: 1, 12: 1, 16: 1, 32: 1, 24: 2, 48: 4, 96: 8}
    regions = {region for region, name in table if name == "g2-standard-4"}
    assert len(regions) == 18
    spot = {"usage": "Preemptible"} if option == SPOT else {}
    before, after = ("Spot Preemptible ", " attached to Spot Preemptible VMs") if spot else ("", "")
    compared = 0
    for region in regions:
        four, eight = (table[region, f"g2-standard-{size}"][column] for size in (4, 8))
        core, gpu = (eight - four) / 4, 2 * four - eight
        found = listed(
            [
                sku(f"{before}G2 Instance Core running in X", f"{core:f}", regions=[region], **spot),
                sku(f"{before}G2 Instance Ram running in X", "0", unit="GiBy.h", regions=[region], **spot),
                sku(f"Nvidia L4 GPU{after} running in X", f"{gpu:f}", regions=[region], **spot),
            ]
        )
        for size, gpus in sizes.items():
            composed = found.machine(
                f"g2-standard-{size}",
                region=region,
                option=option,
                vcpus=size,
                memory_mib=size * 4096,
                accelerators={"nvidia-l4": gpus},
            )
            assert composed is not None
            assert abs(composed - table[region, f"g2-standard-{size}"][column]) < Decimal("1e-6")
            compared += 1
    assert compared == 144


@pytest.mark.parametrize(("name", "disks"), [("a2-ultragpu-1g", 1), ("a3-highgpu-8g", 16)])
def test_local_ssds_are_what_makes_a_known_price_uneven(name: str, disks: int) -> None:
    """SKUs have at most nine decimals; only a month's price by 730 hours has more."""
    price = known()[REGION, name][0]
    ssd = Decimal("0.08") * 375 * disks / 730
    assert price != round(price, 9)
    rest = price - ssd
    assert abs(rest - round(rest, 9)) < Decimal("1e-12")


# --- the parts


def test_the_parts_of_a_machine_are_added_exactly() -> None:
    found = listed(SKUS)
    assert found.machine(TYPE, region=REGION, option=OD, **A2) == Decimal("29.38708")
    spot = 96 * Decimal("0.0126") + 680 * Decimal("0.0017") + 8 * Decimal("1.1")
    assert found.machine(TYPE, region=REGION, option=SPOT, **A2) == spot


def test_a_machine_with_local_ssds_pays_them_by_the_hour() -> None:
    composed = listed(SKUS).machine(
        "a2-ultragpu-1g",
        region=REGION,
        option=OD,
        vcpus=12,
        memory_mib=170 * 1024,
        accelerators={"nvidia-a100-80gb": 1},
        local_ssds=1,
    )
    assert composed is not None
    assert abs(composed - Decimal("5.06879789041096")) < Decimal("1e-14")


@pytest.mark.parametrize("missing", ["A2 Instance Core", "A2 Instance Ram", "Nvidia Tesla A100 GPU running"])
def test_a_machine_of_which_one_part_is_missing_has_no_price(missing: str) -> None:
    rest = [row for row in SKUS if not row["description"].startswith(missing)]
    assert listed(rest).machine(TYPE, region=REGION, option=OD, **A2) is None


def test_another_region_a_family_or_gpu_that_is_not_listed_has_no_price() -> None:
    found = listed(SKUS)
    assert found.machine(TYPE, region="europe-west4", option=OD, **A2) is None
    assert found.machine("a9-highgpu-8g", region=REGION, option=OD, **A2) is None
    assert found.machine(TYPE, region=REGION, option=OD, **{**A2, "accelerators": {"nvidia-new": 8}}) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("A2 Instance Core running in Americas", ("A2 Instance Core", False)),
        ("Spot Preemptible A3Plus Instance Ram running in Tokyo", ("A3Plus Instance Ram", True)),
        ("Nvidia H100 80GB Plus GPU running in Americas", ("Nvidia H100 80GB Plus GPU", False)),
        (
            "Nvidia H100 80GB Mega GPU attached to Spot Preemptible VMs running in Tokyo",
            ("Nvidia H100 80GB Mega GPU", True),
        ),
        ("H200 141GB GPU running in Netherlands", ("H200 141GB GPU", False)),
        ("RTX 6000 96GB running in Belgium", ("RTX 6000 96GB", False)),
        (
            "Spot Preemptible A4 Nvidia B200 (1 gpu slice) running in Americas",
            ("A4 Nvidia B200 (1 gpu slice)", True),
        ),
        ("SSD backed Local Storage", (skus.LOCAL_SSD, False)),
        ("SSD backed Local Storage in Paris", (skus.LOCAL_SSD, False)),
        ("SSD backed Local Storage attached to Spot Preemptible VMs", (skus.LOCAL_SSD, True)),
        ("Commitment v1: A2 Cpu in Americas for 1 Year", None),
        ("Reserved A2 Ram in Netherlands", None),
        ("Reserved Nvidia H100 80GB Mega GPU in Americas in Calendar Mode", None),
        ("Nvidia H100 80GB GPU in Americas in Calendar Mode", None),
        ("Nvidia H100 Mega 80GB GPU attached to DWS Defined Duration VMs running in Americas", None),
        ("A2 Custom Instance Core running in Americas", None),
        ("Nvidia Tesla A100 GPU attached to Sole Tenancy VMs running in Americas", None),
        ("", None),
    ],
)
def test_descriptions_of_parts_are_told_from_all_others(text: str, part: tuple[str, bool] | None) -> None:
    assert skus.read_description(text) == part


def test_a_spot_price_that_is_filed_under_on_demand_is_a_spot_price() -> None:
    found = listed([sku("Spot Preemptible A4 Nvidia B200 (1 gpu slice) running in X", "4.9542")])
    wanted = {"vcpus": 224, "memory_mib": 1, "accelerators": {"nvidia-b200": 8}}
    assert found.machine("a4-highgpu-8g", region=REGION, option=OD, **wanted) is None
    assert found.machine("a4-highgpu-8g", region=REGION, option=SPOT, **wanted) == Decimal("39.6336")


def test_commitments_are_no_price_by_the_hour() -> None:
    rows = [*SKUS, sku("Nvidia Tesla A100 GPU running in Americas", "1", usage="Commit1Yr")]
    assert listed(rows).machine(TYPE, region=REGION, option=OD, **A2) == Decimal("29.38708")


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_prices_for_one_part_the_dearer_counts(turned: bool) -> None:
    rows = [*SKUS, sku("Nvidia Tesla A100 GPU running in Iowa", "3.933908")]
    composed = listed(rows[::-1] if turned else rows).machine(TYPE, region=REGION, option=OD, **A2)
    assert composed == Decimal("37.38708")


def test_memory_by_the_decimal_gigabyte_is_counted_so() -> None:
    rows = [row for row in SKUS if "Instance Ram" not in row["description"]]
    rows.append(sku("A2 Instance Ram running in Americas", "0.004237", unit="GBy.h", group="RAM"))
    composed = listed(rows).machine(TYPE, region=REGION, option=OD, **A2)
    cores_and_gpus = 8 * Decimal("2.933908") + 96 * Decimal("0.031611")
    assert composed == cores_and_gpus + 680 * Decimal("0.004237") * Decimal("1.073741824")


def test_only_the_first_tier_is_a_price() -> None:
    row = sku("Nvidia Tesla A100 GPU running in Americas", "2")
    tiers = row["pricingInfo"][0]["pricingExpression"]["tieredRates"]
    cheaper = {"currencyCode": "USD", "units": "1"}
    tiers.insert(0, {"startUsageAmount": 100, "unitPrice": cheaper})
    rest = [each for each in SKUS if "A100 GPU running" not in each["description"]]
    composed = listed([*rest, row]).machine(TYPE, region=REGION, option=OD, **A2)
    assert composed == 16 + 96 * Decimal("0.031611") + 680 * Decimal("0.004237")


@pytest.mark.parametrize(
    "price",
    [
        {"currencyCode": "USD", "units": "-1", "nanos": 0},
        {"currencyCode": "USD", "units": "1", "nanos": -5},
        {"currencyCode": "USD", "units": "NaN"},
        {"currencyCode": "USD", "units": ["1"]},
        {"currencyCode": "EUR", "units": "1"},
        {"units": "1"},
    ],
)
def test_a_price_that_none_can_be_is_refused(price: dict[str, Any]) -> None:
    row = sku("Nvidia Tesla A100 GPU running in Americas", "2")
    row["pricingInfo"][0]["pricingExpression"]["tieredRates"][0]["unitPrice"] = price
    with pytest.raises(BadAnswer):
        listed([row])


@pytest.mark.parametrize("unit", ["count", "GiBy.d", ""])
def test_a_unit_that_is_no_hour_or_month_is_no_price(unit: str) -> None:
    rows = [row for row in SKUS if "A100 GPU running" not in row["description"]]
    rows.append(sku("Nvidia Tesla A100 GPU running in Americas", "2", unit=unit))
    assert listed(rows).machine(TYPE, region=REGION, option=OD, **A2) is None


def test_a_core_by_the_gibibyte_is_no_price() -> None:
    rows = [row for row in SKUS if "A2 Instance Core" not in row["description"]]
    rows.append(sku("A2 Instance Core running in Americas", "0.03", unit="GiBy.h"))
    assert listed(rows).machine(TYPE, region=REGION, option=OD, **A2) is None


# --- the catalog


def test_a_region_is_its_zones_types_and_priced_offers(fake: FakeGcp) -> None:
    catalog = provider(fake).offers(REGION)
    assert [zone.code for zone in catalog.region.zones] == list(ZONES)
    types = {each.name: each for each in catalog.instance_types}
    # Types to which GPUs are attached apart are left out.
    assert set(types) == {TYPE, "a2-ultragpu-1g", "a4x-highgpu-4g"}
    a2 = types[TYPE]
    assert (a2.gpu_name, a2.gpu_count, a2.vcpus, a2.memory_mib) == ("nvidia-tesla-a100", 8, 96, 680 * 1024)
    assert types["a4x-highgpu-4g"].architecture == "arm64"
    found = {(each.instance_type, each.purchase_option): each for each in catalog.offers}
    # No spot price for the 80 GB GPU, and none at all for a4x: known, and not offered so.
    assert set(found) == {(TYPE, OD), (TYPE, SPOT), ("a2-ultragpu-1g", OD)}
    assert (found[TYPE, OD].price, found[TYPE, OD].zones) == (Decimal("29.38708"), ZONES)
    assert {each.availability for each in catalog.offers} == {Availability.UNKNOWN}


def test_a_type_is_offered_in_the_zones_that_list_it(fake: FakeGcp) -> None:
    fake.types = [machine_type("n1-standard-1", 1, 4), *fake.types[1:3], *fake.types[:1]]
    assert offers(fake)[TYPE, OD].zones == ZONES[:1]


def test_prices_are_asked_for_once_for_all_regions(fake: FakeGcp) -> None:
    google = provider(fake)
    for _turn in range(3):
        google.offers(REGION)
    assert sum(1 for call in fake.calls if call.path.endswith("/skus")) == len(SKUS) // 5 + 1


def test_obsolete_types_are_left_out(fake: FakeGcp) -> None:
    fake.types[0]["deprecated"] = {"state": "OBSOLETE"}
    assert TYPE not in {each.name for each in provider(fake).offers(REGION).instance_types}


@pytest.mark.parametrize(
    ("score", "availability"),
    [
        (0.9, Availability.AVAILABLE),
        (0.3, Availability.UNKNOWN),
        (0.0, Availability.UNAVAILABLE),
        (None, Availability.UNKNOWN),
    ],
)
def test_advice_is_about_spot_machines_and_only_where_it_is_wanted(
    fake: FakeGcp, score: float | None, availability: Availability
) -> None:
    fake.obtainability = score
    found = offers(fake, capacity_advice=True)
    assert found[TYPE, SPOT].availability == availability
    assert found[TYPE, OD].availability == Availability.UNKNOWN
    [call] = [call for call in fake.calls if call.path.endswith("/advice/capacity")]
    assert call.body["instanceProperties"] == {"scheduling": {"provisioningModel": "SPOT"}}


def test_an_unknown_region_is_said(fake: FakeGcp) -> None:
    with pytest.raises(ProviderError, match="us-nowhere9"):
        provider(fake).offers("us-nowhere9")
    with pytest.raises(ProviderError, match="code such as"):
        provider(fake).offers("../zones")
    assert all(".." not in call.path for call in fake.calls)


@pytest.mark.parametrize(
    "change",
    [
        {"guestCpus": "96"},
        {"memoryMb": None},
        {"guestCpus": -1},
        {"accelerators": [{"guestAcceleratorType": "nvidia-tesla-a100"}]},
        {"accelerators": "nvidia"},
        {"name": 7},
    ],
)
def test_a_garbled_type_spoils_the_answer(fake: FakeGcp, change: dict[str, Any]) -> None:
    fake.types[0].update(change)
    with pytest.raises(BadAnswer):
        provider(fake).offers(REGION)


def test_regions_are_those_of_the_settings_or_all(fake: FakeGcp) -> None:
    assert [each.code for each in provider(fake, regions=["us-east4"]).regions()] == ["us-east4"]
    assert [each.code for each in provider(fake).regions()] == [REGION, "europe-west4"]
    with pytest.raises(ProviderError, match="regions"):
        provider(fake, regions=["US East"]).regions()


def test_the_connection_says_project_and_service_account(fake: FakeGcp) -> None:
    identity = provider(fake).test_connection()
    assert (identity.account, identity.principal) == (PROJECT, EMAIL)


def test_a_wrong_project_is_no_list_without_regions(fake: FakeGcp) -> None:
    with pytest.raises(ProviderError, match="projects/another-one"):
        provider(fake, project="another-one").test_connection()


def test_every_gpu_of_the_price_table_is_one_that_we_know() -> None:
    with (BASE_DIR / "inventory" / "data" / "gpu_spellings.csv").open() as lines:
        spelled = {row[1] for row in csv.reader(lines) if row[0] == "gcp" and row[3]}
    named = {gpu for parts in skus.FAMILIES.values() for gpu in parts.gpus}
    assert named <= spelled


def test_a_failing_price_list_is_told_and_not_waited_for_again(
    fake: FakeGcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = provider(fake)
    asked = []

    def pages(*_args: Any, **_options: Any) -> Iterator[Any]:
        asked.append(1)
        raise BadAnswer("HTML")
        yield

    monkeypatch.setattr(google.session.billing, "pages", pages)
    for _turn in range(2):
        with pytest.raises(BadAnswer):
            google.offers(REGION)
    assert len(asked) == 1
