"""The adapter of own servers: which script runs, what it is told, and what its answers mean."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from inventory.providers.base import LaunchGroup, MachineState
from inventory.providers.errors import BadAnswer, NoCapacity, ProviderError, TimedOut
from inventory.providers.metal import STATES, MetalProvider, hook
from tests.contract.metal import EXAMPLE, Metal

SECRET = "an-example-bmc-password"
GROUP = LaunchGroup(
    client_token="lau_0123456789abcdef", count=1, instance_type="hgx-h100", region="dc1", zone="row-a"
)


@pytest.fixture
def folder(tmp_path: Path, settings) -> Path:
    settings.SUBLET_HOOKS = str(tmp_path)
    return tmp_path


def script(folder: Path, text: str, *, name: str = "hook", mode: int = 0o755) -> None:
    (folder / name).write_text("#!/bin/sh\n" + text)
    (folder / name).chmod(mode)


def provider(name: str = "hook", **options: bool) -> MetalProvider:
    return MetalProvider(credentials={"secret": SECRET}, settings={"hook": name, **options})


def servers(folder: Path, *found: dict) -> None:
    (folder / "answer").write_text(json.dumps({"servers": list(found)}))
    script(folder, 'cat > request; cat "$(dirname "$0")/answer"\n')


# --- which script runs


@pytest.mark.parametrize("name", ["", "../hook", "/bin/sh", "a/b", ".hidden", "HOOK", "no-such"])
def test_only_a_script_of_the_folder_runs(folder, name):
    script(folder, "echo '{}'")
    with pytest.raises(ProviderError):
        provider(name)


def test_a_link_out_of_the_folder_does_not_run(folder):
    (folder / "hook").symlink_to("/bin/true")
    with pytest.raises(ProviderError, match="no executable script"):
        provider()


def test_what_others_could_change_does_not_run(folder):
    script(folder, "echo '{}'", mode=0o757)
    with pytest.raises(ProviderError, match="could change"):
        provider()


def test_without_a_folder_nothing_runs(settings):
    settings.SUBLET_HOOKS = ""
    with pytest.raises(ProviderError, match="SUBLET_HOOKS"):
        provider()


def test_secrets_go_in_by_standard_input_only(folder):
    script(
        folder,
        'cat > seen-input; echo "$@" > seen-arguments; env > seen-environment; echo \'{"servers": []}\'\n',
    )
    provider().test_connection()
    assert SECRET in (folder / "seen-input").read_text()
    assert (folder / "seen-arguments").read_text().strip() == "list"
    assert SECRET not in (folder / "seen-environment").read_text()
    assert "SECRET_KEY" not in (folder / "seen-environment").read_text()


# --- what its answers mean


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo '<html>'", BadAnswer),
        ("echo '[]'", BadAnswer),
        ("echo '{}'", BadAnswer),
        ("echo '{\"servers\": NaN}'", BadAnswer),
        ("echo '{\"servers\": {}}'", BadAnswer),
        ("true", BadAnswer),
        ("exit 3", ProviderError),
        ('echo \'{"error": {"code": "no-capacity"}}\'', NoCapacity),
    ],
)
def test_a_bad_answer_is_an_error(folder, text, error):
    script(folder, text)
    with pytest.raises(error):
        provider().regions()


def test_a_complaint_is_shown_without_the_secret(folder):
    script(folder, f"cat >/dev/null; echo 'login with {SECRET} failed' >&2; exit 1")
    with pytest.raises(ProviderError) as failure:
        provider().regions()
    assert "login with … failed" in str(failure.value)
    assert SECRET not in str(failure.value)


def test_a_script_that_hangs_is_ended_with_its_children(folder, monkeypatch):
    monkeypatch.setattr(hook, "TIMEOUT", 0.5)
    script(folder, "sleep 60 & echo $! > child; wait")
    with pytest.raises(TimedOut) as failure:
        provider().regions()
    assert not failure.value.doubtful, "a listing changes nothing"
    child = (folder / "child").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False)
    assert state.stdout.strip() in ("", "Z"), "its child went with it"


def test_a_launch_that_hangs_may_have_taken_effect(folder, monkeypatch):
    servers(folder, Metal.server("u1"))
    text = (folder / "hook").read_text().replace("#!/bin/sh\n", '#!/bin/sh\n[ "$1" = list ] || sleep 60\n')
    (folder / "hook").write_text(text)
    adapter = provider()
    monkeypatch.setattr(hook, "TIMEOUT", 1.0)
    with pytest.raises(TimedOut) as failure:
        adapter.launch(GROUP)
    assert failure.value.doubtful


@pytest.mark.parametrize(
    "change",
    [{"state": "asleep"}, {"name": "a/b"}, {"name": ""}, {"name": 7}, {"gpus": "8"}, {"zone": None}],
)
def test_a_garbled_server_spoils_the_whole_list(folder, change):
    servers(folder, Metal.server("u1"), {**Metal.server("u2"), **change})
    with pytest.raises(BadAnswer):
        provider().offers("dc1")


def test_a_server_twice_spoils_the_list(folder):
    servers(folder, Metal.server("u1"), Metal.server("u1"))
    with pytest.raises(BadAnswer, match="twice"):
        provider().regions()


def test_the_node_itself_is_deployed(folder):
    servers(folder, Metal.server("u1"), Metal.server("u2"))
    group = LaunchGroup(**{**{name: getattr(GROUP, name) for name in GROUP.__slots__}, "node": "u2"})
    assert provider().launch(group)[0].id == "u2/lau_0123456789abcdef"
    assert json.loads((folder / "request").read_text())["server"] == "u2"


def test_a_node_that_is_taken_is_not_replaced_by_another(folder):
    servers(folder, Metal.server("u1"), Metal.server("u2", state="running", tenancy="t"))
    group = LaunchGroup(**{**{name: getattr(GROUP, name) for name in GROUP.__slots__}, "node": "u2"})
    with pytest.raises(NoCapacity):
        provider().launch(group)


@pytest.mark.parametrize("changes", [{"name": "u3"}, {"zone": "row-b"}, {"instance_type": "hgx-h200"}])
def test_a_node_that_is_not_listed_there_is_not_replaced_by_another(folder, changes):
    servers(folder, Metal.server("u1"), Metal.server(**{"name": "u2", **changes}))
    group = LaunchGroup(**{**{name: getattr(GROUP, name) for name in GROUP.__slots__}, "node": "u2"})
    with pytest.raises(NoCapacity, match="lists no server u2"):
        provider().launch(group)
    assert json.loads((folder / "request").read_text()).get("server") is None, "only listed, not deployed"
    assert provider(any_server=True).launch(group)[0].id.startswith(("u1/", "u3/"))


def test_an_old_tenancy_is_over_whoever_has_the_server_now(folder):
    wipe = {"tenancy": "t1", "wiped_at": "2026-12-01T00:00:00+00:00", "method": "nvme-sanitize"}
    servers(folder, Metal.server("u1", state="running", tenancy="t2", last_wipe=wipe))
    (machine,) = provider().describe(region="dc1", ids=["u1/t1"])
    assert machine.state == MachineState.TERMINATED
    assert machine.evidence["method"] == "nvme-sanitize"
    adapter = provider()
    adapter.reclaim(region="dc1", ids=["u1/t1"])
    assert json.loads((folder / "request").read_text()).get("server") is None, "only listed, not wiped"


def test_every_state_of_the_example_is_known(folder):
    text = EXAMPLE.read_text()
    assert {state for state in STATES if f'"{state}"' in text} >= {"free", "deploying", "running", "wiping"}
