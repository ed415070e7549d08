"""CoreWeave: kmock as the API server, with nodes that join and leave as the tests say."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Self

import httpx
import pytest
import yaml

from inventory.providers import naming
from inventory.providers.base import ResourceKind
from tests.contract.counterpart import Break, Counterpart, Loss, Refusal, Shared
from tests.contract.faults import Answer, FaultyProxy, Request

TOKEN = "CW-SECRET-an-example-token"
POOLS = "/apis/compute.coreweave.com/v1alpha1/nodepools"
NODES = "/api/v1/nodes"


def kubeconfig(server: str, token: str = TOKEN) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "cks",
            "clusters": [{"name": "cks", "cluster": {"server": server}}],
            "users": [{"name": "sublet", "user": {"token": token}}],
            "contexts": [{"name": "cks", "context": {"cluster": "cks", "user": "sublet"}}],
        }
    )


class ApiServer:
    """kmock's Kubernetes emulator in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    async def _start(self) -> str:
        import kmock

        self._kmock: Any = kmock.KubernetesEmulator()
        self._kmock.resources["compute.coreweave.com/v1alpha1/nodepools"] = {"namespaced": False}
        self._kmock.resources["v1/nodes"] = {"namespaced": False}
        await self._kmock.__aenter__()
        self._server = kmock.Server(self._kmock)
        await self._server.__aenter__()
        return str(self._server.url).rstrip("/")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        await self._server.__aexit__(None, None, None)
        await self._kmock.__aexit__(None, None, None)


def status(code: int, reason: str, message: str, **headers: str) -> Answer:
    """Return a Kubernetes Status document."""
    text = (
        '{"kind":"Status","apiVersion":"v1","status":"Failure",'
        f'"message":"{message}","reason":"{reason}","code":{code}}}'
    )
    return Answer(code, text.encode(), {"content-type": "application/json", **headers})


def creates(request: Request) -> bool:
    return request.method == "POST" and request.path.partition("?")[0] == POOLS


def lists_nodes(request: Request) -> bool:
    return request.method == "GET" and request.path.partition("?")[0] == NODES


class CoreWeave(Counterpart):
    kind = "coreweave"
    region = "US-EAST-04"
    zone = "US-EAST-04A"
    instance_type = "gd-8xh100ib-i128"
    has_prices = False
    has_availability = False
    pages = False  # the adapter's catalog is the documented types; nodes show where the cluster is
    breaks: ClassVar[frozenset[Break]] = frozenset(Break) - {Break.REPEAT, Break.HALF}

    def __init__(self) -> None:
        self._server = ApiServer()
        self.proxy = FaultyProxy(self._server.url)
        self._api = httpx.Client(base_url=self._server.url)
        self._numbers = itertools.count(1)
        # A cluster always has nodes of its own, for what runs the cluster.
        self._add_node("control", {})
        # The API server knows one token.
        self.proxy.plant(
            lambda request: request.headers.get("authorization") != f"Bearer {TOKEN}",
            times=10**9,
            answer=status(401, "Unauthorized", "Unauthorized"),
        )
        self._own_faults = len(self.proxy.faults)

    @classmethod
    @contextmanager
    def opened(cls, shared: Shared, request: pytest.FixtureRequest) -> Iterator[Self]:
        counterpart = cls()
        try:
            yield counterpart
        finally:
            counterpart.close()

    def close(self) -> None:
        self._api.close()
        self.proxy.close()
        self._server.close()

    def account_fields(self) -> Mapping[str, Any]:
        return {"credentials": {"kubeconfig": kubeconfig(self.proxy.url)}, "options": {}}

    def wrong_credentials(self) -> Mapping[str, str]:
        return {"kubeconfig": kubeconfig(self.proxy.url, "CW-SECRET-not-this-one")}

    def set_price(self, price: Decimal) -> None:
        raise NotImplementedError

    def break_catalog(self, how: Break) -> None:
        if how == Break.HTML:
            self.proxy.answer_html(lists_nodes)
        elif how == Break.SILENT:
            self.proxy.plant(lists_nodes, times=1_000, refuse=True)
        else:
            answers = {
                Break.MALFORMED: Answer(200, b'{"items": [{"metadata": '),
                Break.THROTTLED: status(429, "TooManyRequests", "slow down", **{"retry-after": "45"}),
                Break.CREDENTIALS: status(401, "Unauthorized", "Unauthorized"),
            }
            self.proxy.plant(lists_nodes, times=1_000, answer=answers[how])

    def mend(self) -> None:
        del self.proxy.faults[self._own_faults :]

    def refuse_launches(self, how: Refusal, times: int = 1) -> None:
        answers = {
            # An admission webhook's words; there is no answer of its own for a shortage.
            Refusal.NO_CAPACITY: status(503, "ServiceUnavailable", "no nodes of this type are free"),
            Refusal.QUOTA: status(403, "Forbidden", "nodepool exceeds quota for gd-8xh100ib-i128"),
            Refusal.THROTTLED: status(429, "TooManyRequests", "slow down", **{"retry-after": "45"}),
            Refusal.CREDENTIALS: status(401, "Unauthorized", "Unauthorized"),
            Refusal.INTERNAL: status(500, "InternalError", "etcdserver: request timed out"),
        }
        self.proxy.plant(creates, times=times, answer=answers[how])

    # A shortage shows as a pool that does not fill, never as a refusal.
    refusals: ClassVar[frozenset[Refusal]] = frozenset(Refusal) - {Refusal.NO_CAPACITY}

    def lose_launch_answer(self, how: Loss = Loss.SILENT, times: int = 1) -> None:
        if how == Loss.SILENT:
            self.proxy.plant(creates, times=times, lose_answer=True)
        else:
            gone = status(504, "Timeout", "request did not complete within the allotted timeout")
            self.proxy.plant(creates, times=times, change=lambda request, answer: gone)

    def launch_calls(self) -> int:
        return self.proxy.count(creates)

    def running(self) -> Mapping[str, Mapping[str, str]]:
        return {
            f"{pool['metadata']['name']}/{index}": naming.from_labels(pool["metadata"].get("labels") or {})
            for pool in self._items(POOLS)
            for index in range(pool["spec"]["targetNodes"])
        }

    def finish_booting(self) -> None:
        joined = [node["metadata"]["labels"].get("pool-uid") for node in self._items(NODES)]
        for pool in self._items(POOLS):
            uid = pool["metadata"].get("uid")
            if uid is None:  # an API server gives one; kmock does not
                uid = f"uid-{next(self._numbers)}"
                self._patch(f"{POOLS}/{pool['metadata']['name']}", {"metadata": {"uid": uid}})
            for _missing in range(pool["spec"]["targetNodes"] - joined.count(uid)):
                self._add_node(f"g{next(self._numbers):05}", {"pool-uid": uid})

    def finish_ending(self) -> None:
        """Let nodes of pools that are gone leave the cluster."""
        uids = {pool["metadata"].get("uid") for pool in self._items(POOLS)}
        for node in self._items(NODES):
            uid = node["metadata"]["labels"].get("pool-uid")
            if uid and uid not in uids:
                self._api.delete(f"{NODES}/{node['metadata']['name']}").raise_for_status()

    def vanish(self, machine: str) -> None:
        """Somebody deletes the pool at the console."""
        self._api.delete(f"{POOLS}/{machine.partition('/')[0]}").raise_for_status()
        self.finish_ending()

    def add_stranger(self, tags: Mapping[str, str], kind: ResourceKind = ResourceKind.INSTANCE) -> str:
        name = naming.name_for(tags) if tags else f"inference-{next(self._numbers)}"
        manifest = {
            "apiVersion": "compute.coreweave.com/v1alpha1",
            "kind": "NodePool",
            "metadata": {"name": name, "labels": naming.to_labels(tags)},
            "spec": {"instanceType": self.instance_type, "targetNodes": 1},
        }
        self._api.post(POOLS, json=manifest).raise_for_status()
        return f"{name}/0"

    def owned(self, kind: ResourceKind) -> Collection[str]:
        return list(self.running())

    def _items(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._api.get(path).raise_for_status().json()["items"]
        return items

    def _patch(self, path: str, document: Mapping[str, Any]) -> None:
        headers = {"content-type": "application/merge-patch+json"}
        self._api.patch(path, json=document, headers=headers).raise_for_status()

    def _add_node(self, name: str, labels: Mapping[str, str]) -> None:
        self._api.post(
            NODES,
            json={
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "creationTimestamp": datetime.now(UTC).isoformat(),
                    "labels": {
                        "topology.kubernetes.io/region": self.region,
                        "topology.kubernetes.io/zone": self.zone,
                        "node.kubernetes.io/instance-type": self.instance_type,
                        **labels,
                    },
                },
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
                },
            },
        ).raise_for_status()
