"""A spelling means one GPU model, or nothing: by data that ships and staff's choices, never by guessing."""

from __future__ import annotations

import csv
from datetime import timedelta
from itertools import pairwise

import pytest
from django.db import IntegrityError, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventory.catalog import DATA, load_facts
from inventory.gpu_names import Spelled, forget_answered, normalise, resolve, resolve_all
from inventory.models import (
    Architecture,
    GpuModel,
    GpuSpelling,
    InstanceType,
    Offer,
    PollRun,
    PricePoint,
    Provider,
)
from inventory.new_types import learn_types
from inventory.polling import poll_account
from inventory.providers import registry
from inventory.providers.base import InstanceTypeInfo
from portal.accounts.models import Event
from tests.inventory.conftest import make_account
from tests.inventory.fake_cloud import A100, H100, FakeCloud, catalog, offer

with (DATA / "gpu_spellings.csv").open(encoding="utf-8", newline="") as file:
    SHIPPED = list(csv.DictReader(file))

pytestmark = pytest.mark.usefixtures("supply")


def slug(provider: str, gpu: str, memory: int = 0, instance_type: str = "") -> str | None:
    provider_id = Provider.objects.get(slug=provider).pk
    model = resolve(provider_id=provider_id, gpu_name=gpu, memory_mib=memory, instance_type=instance_type)
    return model.slug if model else None


def info(name: str, gpu: str = "", count: int = 8, memory: int = 0, **fields: object) -> InstanceTypeInfo:
    values = {"vcpus": 64, "memory_mib": 512 * 1024, "gpu_vendor": "nvidia", **fields}
    return InstanceTypeInfo(name=name, gpu_name=gpu, gpu_count=count, gpu_memory_mib=memory, **values)


@pytest.mark.parametrize(
    ("provider", "gpu", "memory", "expected"),
    [
        ("aws", "H100", 81920, "h100-sxm5-80gb"),
        ("aws", "A100", 40960, "a100-sxm4-40gb"),
        ("aws", "A100", 81920, "a100-sxm4-80gb"),
        ("aws", "RTX PRO Server 6000", 98304, "rtx-pro-6000-96gb"),
        ("azure", "Standard_ND96isr_H100_v5", 0, "h100-sxm5-80gb"),
        ("gcp", "nvidia-h100-mega-80gb", 0, "h100-sxm5-80gb"),
        ("coreweave", "gd-8xh100ib-i128", 0, "h100-sxm5-80gb"),
        ("lambda", "H100 (80 GB SXM5)", 0, "h100-sxm5-80gb"),
        ("together", "H100_SXM", 0, "h100-sxm5-80gb"),
        ("runpod", "NVIDIA H100 80GB HBM3", 81920, "h100-sxm5-80gb"),
        ("nebius", "gpu-h100-sxm", 0, "h100-sxm5-80gb"),
        ("crusoe", "h100-80gb-sxm-ib", 0, "h100-sxm5-80gb"),
        ("vast", "H100 SXM", 81559, "h100-sxm5-80gb"),
        ("metal", "h100-sxm5-80gb", 0, "h100-sxm5-80gb"),
        ("metal", "H100 SXM 80 GB", 0, "h100-sxm5-80gb"),
        ("vast", "RTX 4090", 24564, "rtx-4090-24gb"),
        # The same card with more memory soldered on is another card.
        ("vast", "RTX 4090", 49140, None),
        ("vast", "A100 SXM4", 40960, "a100-sxm4-40gb"),
        ("vast", "A100_SXM4", 81920, "a100-sxm4-80gb"),
        # 40 or 80 GB, SXM or PCIe: memory or provider must say.
        ("vast", "A100 SXM4", 0, None),
        ("aws", "A100", 0, None),
        ("runpod", "A100", 81920, None),
        ("lambda", "H100", 81920, None),
        # What AWS calls an H100 says nothing about others.
        ("together", "H100", 81920, None),
        ("vast", "Tesla V100", 16384, None),
        ("aws", "", 0, None),
    ],
)
def test_providers_spell_one_gpu_in_many_ways(provider, gpu, memory, expected):
    assert slug(provider, gpu, memory) == expected


def test_a_types_own_name_decides_before_its_gpu():
    assert slug("lambda", "A100", 40960, "gpu_8x_a100") == "a100-sxm4-40gb"
    assert slug("lambda", "A100", 40960, "gpu_1x_a100") == "a100-pcie-40gb"
    assert slug("lambda", "A100", 40960, "gpu_3x_a100") is None


def test_many_are_told_with_two_queries(django_assert_num_queries):
    asked = [Spelled("", normalise(row["spelling"]), int(row["memory_mib"] or 0)) for row in SHIPPED]
    provider_id = Provider.objects.get(slug="aws").pk
    with django_assert_num_queries(2):
        resolve_all(provider_id=provider_id, asked=asked)


def test_every_shipped_spelling_means_what_its_row_says():
    for provider_id, name in [(None, ""), *Provider.objects.values_list("pk", "slug")]:
        rows = [row for row in SHIPPED if row["provider"] == name]
        asked = [Spelled("", normalise(row["spelling"]), int(row["memory_mib"] or 0)) for row in rows]
        meanings = resolve_all(provider_id=provider_id, asked=asked)
        for row, item in zip(rows, asked, strict=True):
            meaning = meanings[item]
            assert (meaning.gpu_model.slug if meaning.gpu_model else "") == row["gpu_model"], row
            assert meaning.ignored == (not row["gpu_model"])


def test_no_two_shipped_rows_are_of_one_spelling():
    keys = [(row["provider"], normalise(row["spelling"]), row["memory_mib"]) for row in SHIPPED]
    assert len(keys) == len(set(keys))
    assert all(row["note"] for row in SHIPPED if not row["gpu_model"])


def test_a_memory_beside_a_shipped_one_never_makes_it_another_model():
    """Where one spelling has rows by memory, each is far enough from the others."""
    by_memory: dict[tuple[str, str], list[int]] = {}
    for row in SHIPPED:
        if row["memory_mib"]:
            by_memory.setdefault((row["provider"], normalise(row["spelling"])), []).append(
                int(row["memory_mib"])
            )
    for key, memories in by_memory.items():
        memories.sort()
        assert all(later * 9 > earlier * 10 for earlier, later in pairwise(memories)), key


# -- Whatever the case, the spaces and the punctuation ---------------------------------------------

gap = st.text(alphabet=" \t_-/(),.\u00a0", min_size=1, max_size=4)


@st.composite
def disguised(draw):
    """A shipped row, and its spelling as somebody else might type it."""
    row = draw(st.sampled_from(SHIPPED))
    words = normalise(row["spelling"]).split()
    text = draw(st.sampled_from(["", " ", "®"]))
    for word in words:
        text += "".join(draw(st.sampled_from([char, char.upper()])) for char in word) + draw(gap)
    return row, text


@given(disguised())
@settings(max_examples=200, deadline=None)
def test_case_and_punctuation_never_matter(example):
    row, text = example
    assert normalise(text) == normalise(row["spelling"])


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_folding_twice_changes_nothing_more(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == " ".join(once.split())
    assert len(once) <= 120


@given(
    spelling=st.sampled_from(sorted({normalise(row["spelling"]) for row in SHIPPED})),
    memory=st.one_of(st.just(0), st.integers(1, 400_000)),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_spelling_never_means_two_models(spelling, memory, order):
    """Whoever asks, in whatever company and order, hears the same; and the memory never contradicts."""
    provider_id = order.choice([None, *Provider.objects.order_by("pk").values_list("pk", flat=True)])
    item = Spelled("", spelling, memory)
    others = [Spelled("", normalise(row["spelling"]), 0) for row in order.sample(SHIPPED, 20)]
    alone = resolve_all(provider_id=provider_id, asked=[item])[item]
    assert resolve_all(provider_id=provider_id, asked=[*others, item])[item] == alone
    assert not (alone.ignored and alone.gpu_model)
    if alone.gpu_model and memory:
        nominal = alone.gpu_model.memory_gib * 1024
        assert abs(nominal - memory) <= max(nominal, memory) * 0.2


# -- What polls do with it --------------------------------------------------------------------------


@pytest.fixture
def cloud(monkeypatch):
    monkeypatch.setattr(
        registry, "BUILT_IN", {**registry.BUILT_IN, "fake": "tests.inventory.fake_cloud.FakeCloud"}
    )
    monkeypatch.setattr(FakeCloud, "listing", None)
    monkeypatch.setattr(FakeCloud, "during", None)
    Provider.objects.filter(slug="aws").update(kind="fake")
    return FakeCloud


@pytest.fixture
def account(cloud):
    return make_account("fake", slug="aws")


def test_a_new_type_with_a_known_gpu_is_added_with_its_offer(account, cloud, monkeypatch, now):
    new = info("p7.48xlarge", "H200", memory=144384, network="3200 Gigabit, EFA", architecture="arm64")
    answer = catalog(offer("p7.48xlarge", "70"), types=(H100, A100, new))
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": answer})

    (run,) = poll_account(account_id=account.pk, now=now)

    assert (run.state, run.unknown_types, run.error) == ("complete", [], "")
    added = InstanceType.objects.get(name="p7.48xlarge")
    assert (added.gpu_model.slug, added.gpus_per_node) == ("h200-sxm5-141gb", 8)
    assert (added.vcpus, added.memory_gib, added.interconnect) == (64, 512, "3200 Gigabit, EFA")
    assert added.architecture == Architecture.ARM64
    assert Offer.objects.get(instance_type=added).price == 70
    event = Event.objects.get(kind="instance_types.added")
    assert (event.subject_id, event.after) == ("aws", {"count": 1, "names": ["p7.48xlarge"]})
    # A second time there is nothing to add.
    poll_account(account_id=account.pk, now=now + timedelta(hours=1))
    assert Event.objects.filter(kind="instance_types.added").count() == 1


def test_a_real_adapter_fills_an_empty_catalog(ec2_account, now):
    """EC2's own words, from a server that somebody else wrote: no type has to be entered by hand."""
    PricePoint.objects.all().delete()
    Offer.objects.all().delete()
    before = dict(InstanceType.objects.filter(provider__slug="aws").values_list("name", "gpu_model__slug"))
    InstanceType.objects.all().delete()

    (run,) = poll_account(account_id=ec2_account.pk, now=now)

    assert (run.state, run.unknown_types, run.error) == ("complete", [], "")
    after = dict(InstanceType.objects.values_list("name", "gpu_model__slug"))
    assert len(after) > 50
    assert {name: before[name] for name in after if name in before} == {
        name: model for name, model in after.items() if name in before
    }
    assert Offer.objects.count() == run.offers_seen
    assert InstanceType.objects.get(name="p5.48xlarge").interconnect == "3200 Gigabit, EFA"
    assert InstanceType.objects.get(name="g5g.xlarge").architecture == Architecture.ARM64


def test_an_unknown_gpu_is_kept_once_for_staff_and_known_after_their_choice(account, cloud, monkeypatch, now):
    x100 = [info(f"p9.{size}", "X-100", memory=524288) for size in ("24xlarge", "48xlarge")]
    answer = catalog(offer("p9.48xlarge", "99"), types=(H100, *x100))
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": answer})
    before = GpuSpelling.objects.count()

    (run,) = poll_account(account_id=account.pk, now=now)
    poll_account(account_id=account.pk, now=now + timedelta(hours=1))

    assert run.state == "complete"
    assert run.unknown_types == [
        "p9.24xlarge: 8 × nvidia X-100, 524288 MiB",
        "p9.48xlarge: 8 × nvidia X-100, 524288 MiB",
    ]
    assert not InstanceType.objects.filter(name__startswith="p9.").exists()
    assert GpuSpelling.objects.count() == before + 1
    row = GpuSpelling.objects.get(spelling="x 100")
    assert (row.provider.slug, row.memory_mib, row.source) == ("aws", 524288, "poll")
    assert (row.times_listed, row.gpu_model, row.ignored) == (2, None, False)
    assert row.example.startswith("p9.")
    assert row.last_seen_at - row.first_seen_at > timedelta(minutes=59)

    row.gpu_model = GpuModel.objects.get(slug="b300-sxm6-288gb")
    row.save()
    (run,) = poll_account(account_id=account.pk, now=now + timedelta(hours=2))
    assert run.unknown_types == []
    assert Offer.objects.get(instance_type__name="p9.48xlarge").price == 99
    row.refresh_from_db()
    assert row.times_listed == 2  # what is known is not written any more


def test_types_without_a_whole_gpu_are_left_out_without_a_word(account, cloud, monkeypatch, now):
    types = (H100, info("g6f.large", "L4", count=0, memory=2861), info("g3.4xlarge", "M60", memory=8192))
    answer = catalog(offer(), offer("g6f.large", "1"), offer("g3.4xlarge", "1"), types=types)
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": answer})
    before = GpuSpelling.objects.count()

    (run,) = poll_account(account_id=account.pk, now=now)

    assert (run.state, run.unknown_types, run.error) == ("complete", [], "")
    assert not InstanceType.objects.filter(name__in=["g6f.large", "g3.4xlarge"]).exists()
    assert GpuSpelling.objects.count() == before


def test_where_the_provider_names_no_gpu_the_types_name_is_kept(now):
    provider = Provider.objects.get(slug="azure")
    learned = learn_types(
        listed=[info("Standard_ND96isr_H100_v5"), info("Standard_ND96_X_v9")],
        provider_id=provider.pk,
        now=now,
    )
    assert list(learned.added) == ["Standard_ND96isr_H100_v5"]
    assert learned.unknown == ("Standard_ND96_X_v9: 8 × nvidia",)
    assert GpuSpelling.objects.get(source="poll").spelling == "standard nd96 x v9"


@pytest.mark.parametrize(
    ("gpu", "said", "expected"),
    [
        ("GB200 NVL72", "", Architecture.ARM64),
        ("GB200 NVL72", "x86_64", Architecture.X86_64),
        ("H100 SXM", "", Architecture.X86_64),
        ("H100 SXM", "Arm64", Architecture.ARM64),
        ("H100 SXM", "aarch64", Architecture.ARM64),
        ("H100 SXM", "amd64", Architecture.X86_64),
    ],
)
def test_the_processor_is_what_the_provider_says_or_what_comes_with_the_gpu(now, gpu, said, expected):
    provider = Provider.objects.get(slug="coreweave")
    learn_types(listed=[info("new-type", gpu, architecture=said)], provider_id=provider.pk, now=now)
    assert InstanceType.objects.get(name="new-type").architecture == expected


def test_figures_that_a_provider_does_not_give_stay_unknown_and_keep_ours(account, cloud, monkeypatch, now):
    bare = info("p9.xlarge", "H100", memory=81920, vcpus=0, memory_mib=0)
    silent = InstanceTypeInfo("p5.48xlarge", 0, 0, "nvidia", "H100", 8, 81920)
    answer = catalog(offer(), offer("p9.xlarge", "9"), types=(silent, bare))
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": answer})
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.state == "complete"
    ours = InstanceType.objects.get(name="p5.48xlarge")
    assert (ours.vcpus, ours.memory_gib) == (192, 2048)
    theirs = InstanceType.objects.get(name="p9.xlarge")
    assert (theirs.vcpus, theirs.memory_gib, theirs.interconnect) == (None, None, "")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (info("x" * 81, "H100", memory=81920), "has a name that is none"),
        (info("p9.xlarge", 7, memory=81920), "has a description that is not text"),
        (info("p9.xlarge", "H100", count=-1), "has a gpu_count that is no count"),
        (info("p5.48xlarge", "H100", memory=40960), "is listed twice, and differently"),
    ],
)
def test_a_type_that_cannot_be_is_a_problem_and_adds_nothing(account, cloud, monkeypatch, now, bad, says):
    answer = catalog(offer("p4d.24xlarge"), types=(H100, A100, bad))
    monkeypatch.setattr(FakeCloud, "answers", {"us-east-1": answer})
    before = InstanceType.objects.count(), GpuSpelling.objects.count()
    (run,) = poll_account(account_id=account.pk, now=now)
    assert run.state == PollRun.State.PARTIAL
    assert says in run.error
    assert (InstanceType.objects.count(), GpuSpelling.objects.count()) == before


def test_foreign_characters_are_stored_as_something_printable(now):
    provider = Provider.objects.get(slug="vast")
    odd = "Infini\x00band, InfiniBand \ud800 " + "x" * 80
    learned = learn_types(
        listed=[info("known", "H100 SXM", network=odd), info("unknown", "X\x00\ud800 100", memory=2**31 - 1)],
        provider_id=provider.pk,
        now=now,
    )
    assert len(learned.added) == 1
    assert InstanceType.objects.get(name="known").interconnect.startswith("Infini�band, InfiniBand �")
    assert GpuSpelling.objects.get(source="poll").spelling == "x 100"
    assert InstanceType.objects.filter(name="known", interconnect__endswith="…").exists()


def test_a_hundred_thousand_unknown_types_do_not_fill_the_list(now):
    provider = Provider.objects.get(slug="vast")
    learned = learn_types(
        listed=[info(f"machine-{number}") for number in range(3000)], provider_id=provider.pk, now=now
    )
    assert len(learned.unknown) == 3000
    assert GpuSpelling.objects.filter(provider=provider, source="poll").count() == 1000


# -- What loading does ------------------------------------------------------------------------------


def reload() -> None:
    with transaction.atomic():
        load_facts()


def test_loading_again_keeps_what_staff_chose_and_corrects_what_shipped():
    mine = GpuSpelling.objects.get(provider__slug="together", spelling="h100 sxm inf")
    mine.gpu_model, mine.ignored, mine.source = None, True, GpuSpelling.Source.STAFF
    mine.save()
    wrong = GpuSpelling.objects.get(provider__slug="together", spelling="l40 pcie")
    GpuSpelling.objects.filter(pk=wrong.pk).update(gpu_model=GpuModel.objects.get(slug="t4-16gb"))

    reload()

    mine.refresh_from_db()
    wrong.refresh_from_db()
    assert (mine.gpu_model, mine.ignored) == (None, True)
    assert wrong.gpu_model.slug == "l40-48gb"


def test_loading_answers_what_polls_could_not(now):
    vast = Provider.objects.get(slug="vast")
    rows = [
        ("rtx 4090", 24564),  # another row answers it by now
        ("rtx 4090", 49140),
        ("something new", 0),
    ]
    for spelling, memory in rows:
        GpuSpelling.objects.create(provider=vast, spelling=spelling, memory_mib=memory, source="poll")
    GpuSpelling.objects.filter(provider__slug="together", spelling="h100 sxm").update(
        gpu_model=None, source="poll"
    )

    reload()

    left = GpuSpelling.objects.filter(source="poll")
    assert set(left.values_list("spelling", "memory_mib")) == {("rtx 4090", 49140), ("something new", 0)}
    assert slug("together", "H100_SXM") == "h100-sxm5-80gb"
    with transaction.atomic():
        assert forget_answered() == 0


def test_the_database_keeps_spellings_single_and_folded():
    t4 = GpuModel.objects.get(slug="t4-16gb")
    for fields in (
        {"spelling": "t4", "gpu_model": t4},  # anybody's T4 is there already
        {"spelling": "x  y"},
        {"spelling": ""},
        {"spelling": "x", "gpu_model": t4, "ignored": True},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            GpuSpelling.objects.create(**fields)
