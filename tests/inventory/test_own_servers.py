"""Own servers become nodes by CSV: all of a file or nothing, and the same file adds nothing."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from inventory.commitments import ResaleNotAllowed
from inventory.models import Architecture, Commitment, InstanceType, Node, Zone
from inventory.own_servers import MAX_SERVERS, ServerFileError, import_servers
from portal.accounts.models import Event
from tests.concurrency import race
from tests.inventory.conftest import NOW, make_account

pytestmark = pytest.mark.usefixtures("supply")
HEADER = (
    "name,region,zone,instance_type,gpu_model,gpus_per_node,"
    "available_from,available_until,usd_per_hour,vcpus,memory_gib,interconnect,fabric\n"
)
ROWS = (
    "rack1-u1,dc1,row-a,hgx-h100,h100-sxm5-80gb,8,2026-12-01,2029-12-01,9.80,224,2048,NDR 400,pod-1\n"
    "rack1-u5,dc1,row-a,hgx-h100,h100-sxm5-80gb,8,2026-12-01,2029-12-01,9.80,224,2048,NDR 400,pod-1\n"
    "rack9-u1,dc1,row-b,l40s-box,l40s-48gb,4,2026-12-01T06:00+01:00,2028-12-01,2.10,,,,\n"
)


@pytest.fixture
def account():
    return make_account("metal", name="Own servers")


def load(account, text: str = HEADER + ROWS):
    return import_servers(account_id=account.pk, file=io.BytesIO(text.encode()), actor=None, now=NOW)


def nothing_stored() -> bool:
    return not (Node.objects.exists() or Commitment.objects.exists() or Zone.objects.exists())


def test_servers_become_nodes_of_one_commitment_per_lot(account):
    result = load(account)
    assert (result.added, result.known, len(result.commitments)) == (3, 0, 2)
    node = Node.objects.get(name="rack1-u1")
    assert (node.zone.code, node.fabric.name, node.instance_type.gpus_per_node) == ("row-a", "pod-1", 8)
    assert node.commitment.cost_per_node_hour == Decimal("9.80")
    assert node.commitment.quantity == node.commitment.deliveries.get().nodes == 2
    assert f"{Node.objects.get(name='rack9-u1').available.lower:%Y-%m-%dT%H:%M%z}" == "2026-12-01T05:00+0000"
    assert Event.objects.filter(kind="servers.imported").count() == 1


def test_the_same_file_adds_nothing(account):
    load(account)
    before = list(Node.objects.values()), list(Commitment.objects.values())
    assert load(account).known == 3
    assert (list(Node.objects.values()), list(Commitment.objects.values())) == before
    assert Event.objects.filter(kind="servers.imported").count() == 1


def test_further_servers_are_added_to_the_fleet(account):
    load(account)
    more = ROWS + ROWS.splitlines()[0].replace("rack1-u1", "rack1-u9") + "\n"
    assert load(account, HEADER + more).added == 1
    assert InstanceType.objects.filter(provider=account.provider).count() == 2


def test_a_server_with_arm_processors_gets_images_for_them(account):
    load(account, HEADER + ROWS.replace("l40s-48gb,4", "gh200-96gb,1"))
    found = InstanceType.objects.filter(provider=account.provider).values_list("name", "architecture")
    assert dict(found) == {"hgx-h100": Architecture.X86_64, "l40s-box": Architecture.ARM64}


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("rack1-u5,", "../etc,", 3, "name"),
        ("rack1-u5,", "rack1-u1,", 3, "line 2 already"),
        ("h100-sxm5-80gb,8", "h9000,8", 2, "gpu_model"),
        ("h100-sxm5-80gb,8", "h100-sxm5-80gb,0", 2, "gpus_per_node"),
        ("h100-sxm5-80gb,8", "h100-sxm5-80gb,eight", 2, "gpus_per_node"),
        ("2026-12-01,2029-12-01", "2029-12-01,2026-12-01", 2, "available_until"),
        ("2026-12-01,2029-12-01", "soon,2029-12-01", 2, "available_from"),
        ("9.80", "NaN", 2, "usd_per_hour"),
        ("9.80", "-1", 2, "usd_per_hour"),
        ("9.80,224", "9.80", 2, "number of fields"),
        ("usd_per_hour", "price", 1, "usd_per_hour"),
        ("fabric\n", "fabric,colour\n", 1, "colour"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(account, old, new, line, word):
    with pytest.raises(ServerFileError) as refusal:
        load(account, (HEADER + ROWS).replace(old, new))
    assert any(number == line and word in text for number, text in refusal.value.lines), refusal.value.lines
    assert nothing_stored()


@pytest.mark.parametrize("text", ["", "\n \n", HEADER, "\x00\xff", HEADER + '"' + ROWS])
def test_what_is_no_table_is_refused(account, text):
    with pytest.raises(ServerFileError):
        load(account, text)
    assert nothing_stored()


def test_too_many_servers_are_refused(account):
    line = ROWS.splitlines()[0].split(",", 1)[1]
    with pytest.raises(ServerFileError, match="split the file"):
        load(account, HEADER + "".join(f"s{number},{line}\n" for number in range(MAX_SERVERS + 1)))
    assert nothing_stored()


def test_a_type_cannot_change_its_gpus(account):
    load(account)
    with pytest.raises(ServerFileError, match="another instance_type"):
        load(account, HEADER + ROWS.replace("rack1", "rack2").replace("h100-sxm5-80gb,8", "h100-sxm5-80gb,4"))
    assert Node.objects.count() == 3


def test_a_name_that_another_node_has_is_refused(account):
    load(account)
    with pytest.raises(ServerFileError, match="unique"):
        load(make_account("metal", slug="metal", name="Second hall"))
    assert Node.objects.count() == 3


def test_without_the_right_to_sublet_nothing_is_imported():
    with pytest.raises(ResaleNotAllowed):
        load(make_account("metal", resale_allowed=False))
    assert nothing_stored()


@pytest.mark.django_db(transaction=True)
def test_two_imports_at_once_add_each_server_once(account):
    results = race([lambda: load(account) for _ in range(3)])
    assert sorted(result.added for result in results) == [0, 0, 3]
    assert Node.objects.count() == 3


def test_the_command_imports_and_says_what_it_did(account, tmp_path, capsys):
    path = tmp_path / "servers.csv"
    path.write_text(HEADER + ROWS)
    call_command("import_servers", "Own servers", str(path))
    assert "3 servers added in 2 commitments" in capsys.readouterr().out
    with pytest.raises(CommandError, match="Known: Own servers"):
        call_command("import_servers", "Elsewhere", str(path))
    path.write_text(HEADER + ROWS.replace("9.80", "free"))
    with pytest.raises(CommandError, match="nothing was imported"):
        call_command("import_servers", "Own servers", str(path))


@pytest.mark.parametrize("when", ["0001-01-01T00:00+23:00", "9999-12-31T23:00-12:00", "9999-12-31"])
def test_a_date_that_no_calendar_of_ours_has_is_named(account, when):
    with pytest.raises(ServerFileError) as raised:
        load(account, HEADER + ROWS.replace("2029-12-01", when))
    assert f"available_until “{when}” is not a date" in str(raised.value)
    assert nothing_stored()


def test_a_fabric_does_not_span_zones(account):
    with pytest.raises(ServerFileError, match="pod-1"):
        load(account, HEADER + ROWS.replace("2.10,,,,", "2.10,,,,pod-1"))
    assert nothing_stored()
    load(account)
    with pytest.raises(ServerFileError, match="pod-1"):
        load(
            account, HEADER + "rack9-u2,dc1,row-b,l40s-box,l40s-48gb,4,2026-12-01,2028-12-01,2.10,,,,pod-1\n"
        )
    assert Node.objects.count() == 3
