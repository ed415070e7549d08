"""Own servers: the shipped example of an operator's script, behind one that fails on demand."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings

from inventory.providers.base import TAG_TOKEN, ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "metal-hook" / "simulated"
SECRET = "an-example-bmc-password"

# Stands between the adapter and the example: counts, fails as it is told, else passes on.
FAULTY = """
import json, pathlib, subprocess, sys
here = pathlib.Path(__file__).resolve().parent
verb, text = sys.argv[1], sys.stdin.read()
with (here / "calls").open("a") as calls:
    print(verb, file=calls)
plan = json.loads((here / "plan.json").read_text())
fault = next((each for each in plan if each["verb"] == verb and each["times"] > 0), None)
if json.loads(text)["secrets"].get("secret") != {secret!r}:
    print(json.dumps({{"error": {{"code": "auth", "message": "wrong password"}}}}))
    sys.exit(0)
if fault:
    fault["times"] -= 1
    (here / "plan.json").write_text(json.dumps(plan))
    if fault.get("after"):
        subprocess.run([str(here / "simulated"), verb], input=text, text=True, capture_output=True)
    sys.stderr.write(fault.get("stderr", ""))
    sys.stdout.write(fault.get("stdout", ""))
    sys.exit(fault.get("status", 0))
done = subprocess.run([str(here / "simulated"), verb], input=text, text=True, capture_output=True)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


def said(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": f"said {code}"}})


class Metal(Counterpart):
    kind = "metal"
    region = "dc1"
    zone = "row-a"
    instance_type = "hgx-h100"
    has_prices = False
    pages = False
    lags = False
    breaks = frozenset(Break) - {Break.REPEAT, Break.HALF}  # one answer holds every server
    retry_after: ClassVar[float | None] = None

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sublet-metal-"))
        shutil.copy(EXAMPLE, self.folder / "simulated")
        (self.folder / "faulty.py").write_text(FAULTY.format(secret=SECRET))
        hook = self.folder / "faulty"
        # Not by its first line: the kernel breaks that at a space in Python's path.
        hook.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$(dirname "$0")/faulty.py" "$@"\n')
        for script in (hook, self.folder / "simulated"):
            script.chmod(0o755)
        self._before = settings.SUBLET_HOOKS
        settings.SUBLET_HOOKS = str(self.folder)
        self.plan([])
        self.write([self.server(f"rack1-u{number}") for number in range(1, 7)])

    def close(self) -> None:
        settings.SUBLET_HOOKS = self._before
        shutil.rmtree(self.folder)

    @staticmethod
    def server(name: str, **changes: Any) -> dict[str, Any]:
        server: dict[str, Any] = {
            "name": name, "region": "dc1", "zone": "row-a", "instance_type": "hgx-h100", "state": "free",
            "tenancy": "", "tags": {}, "boot": 1e9, "wipe": 1e9, "gpus": 8, "gpu": "H100 SXM5 80GB",
            "gpu_vendor": "nvidia", "gpu_memory_mib": 81920, "vcpus": 224, "memory_mib": 2097152,
            "public_ip": "203.0.113.7",
        }  # fmt: skip
        return {**server, **changes}

    def read(self) -> list[dict[str, Any]]:
        servers: list[dict[str, Any]] = json.loads((self.folder / "servers.json").read_text())
        return servers

    def write(self, servers: list[dict[str, Any]]) -> None:
        (self.folder / "servers.json").write_text(json.dumps(servers))

    def plan(self, faults: list[dict[str, Any]]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(faults))

    def account_fields(self) -> Mapping[str, Any]:
        return {"credentials": {"secret": SECRET}, "options": {"hook": "faulty", "any_server": True}}

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"secret": "a-wrong-bmc-password"}

    def set_price(self, price: Decimal) -> None:
        raise NotImplementedError

    def set_available(self, available: bool) -> None:
        servers = self.read()
        for server in servers:
            server["state"] = "free" if available else "failed"
        self.write(servers)

    def break_catalog(self, how: Break) -> None:
        answers: dict[Break, dict[str, Any]] = {
            Break.HTML: {"stdout": "<!doctype html><title>Sign in</title>"},
            Break.MALFORMED: {"stdout": '{"servers": [{"name": 7'},
            Break.THROTTLED: {"stdout": said("rate-limited")},
            Break.CREDENTIALS: {"stdout": said("auth")},
            Break.SILENT: {"status": 1, "stderr": "no route to the management network"},
        }
        self.plan([{"verb": "list", "times": 1_000, **answers[how]}])

    def mend(self) -> None:
        self.plan([])

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        answers: dict[Refusal, dict[str, Any]] = {
            Refusal.NO_CAPACITY: {"stdout": said("no-capacity")},
            Refusal.QUOTA: {"stdout": said("quota")},
            Refusal.THROTTLED: {"stdout": said("rate-limited")},
            Refusal.CREDENTIALS: {"stdout": said("auth")},
            Refusal.INTERNAL: {"status": 1, "stderr": "traceback"},
        }
        self.plan([{"verb": "deploy", "times": times, **answers[how]}])

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        status = 137 if how == Loss.SILENT else 1
        self.plan([{"verb": "deploy", "times": times, "after": True, "status": status}])

    def launch_calls(self) -> int:
        calls = self.folder / "calls"
        return calls.read_text().split().count("deploy") if calls.exists() else 0

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {
            f"{server['name']}/{server['tenancy']}": server["tags"]
            for server in self.read()
            if server["state"] in ("deploying", "running", "wiping")
        }

    def finish_booting(self) -> None:
        self._let(boot=0)

    def finish_ending(self) -> None:
        self._let(wipe=0)

    def vanish(self, machine: str) -> None:
        """Somebody wipes the server at the console: it has no tenancy any more."""
        servers = self.read()
        for server in servers:
            if server["name"] == machine.partition("/")[0]:
                server.update(state="free", tenancy="", tags={})
        self.write(servers)

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        servers = self.read()
        server = next(each for each in servers if each["state"] == "free")
        tenancy = tags.get(TAG_TOKEN, "somebody-else")
        server.update(state="running", tenancy=tenancy, tags=dict(tags))
        self.write(servers)
        return f"{server['name']}/{tenancy}"

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return list(self.running())

    def _let(self, **times: float) -> None:
        """Let time pass for what is under way: the example looks at the clock at its next call."""
        servers = self.read()
        for server in servers:
            server.update(times)
        self.write(servers)
        subprocess.run(
            [str(self.folder / "simulated"), "list"], input="{}", text=True, capture_output=True, check=True
        )
        servers = self.read()
        for server in servers:
            server.update(dict.fromkeys(times, 1e9))
        self.write(servers)
