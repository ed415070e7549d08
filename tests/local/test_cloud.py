"""The demo's cloud remembers its machines from one run to the next."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from portal.local.process import Child, stop_all
from portal.local.valkey import free_port

IMAGE = "ami-12c6146b"


@contextmanager
def cloud(journal: Path, logs: Path) -> Iterator[Any]:
    """Run the cloud and give an EC2 client of it."""
    port = free_port()
    child = Child(
        "cloud",
        [sys.executable, "-m", "portal.local.cloud", "--port", str(port), "--journal", str(journal)],
        log=logs / "cloud.log",
        env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "true"},
    )
    client = boto3.client(
        "ec2",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="demo",
        aws_secret_access_key="demo",
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.describe_regions()
                break
            except EndpointConnectionError:
                if not child.running() or time.monotonic() > deadline:
                    raise RuntimeError(child.tail()) from None
                time.sleep(0.1)
        yield client
    finally:
        stop_all([child], patience=5)


def machines(client: Any) -> dict[str, str]:
    """Return the state of every machine by its id."""
    return {
        machine["InstanceId"]: machine["State"]["Name"]
        for reservation in client.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    }


def launch(client: Any, group: str) -> list[str]:
    answer = client.run_instances(
        ImageId=IMAGE, MinCount=2, MaxCount=2, InstanceType="p5.48xlarge", SecurityGroupIds=[group]
    )
    return [machine["InstanceId"] for machine in answer["Instances"]]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "with space" / "cloud.jsonl"


def test_the_same_machines_stand_after_a_restart(journal: Path, tmp_path: Path) -> None:
    with cloud(journal, tmp_path) as client:
        network = client.describe_vpcs()["Vpcs"][0]["VpcId"]
        group = client.create_security_group(GroupName="lease", Description="lease", VpcId=network)["GroupId"]
        first, second = launch(client, group)
        client.terminate_instances(InstanceIds=[first])
        before = machines(client)
    assert before == {first: "terminated", second: "running"}
    with cloud(journal, tmp_path) as client:
        assert machines(client) == before
        third, _fourth = launch(client, group)  # new ids are new
        assert third not in before


def test_a_torn_last_line_costs_that_line_only(journal: Path, tmp_path: Path) -> None:
    with cloud(journal, tmp_path) as client:
        group = client.create_security_group(GroupName="lease", Description="lease")["GroupId"]
        kept = launch(client, group)
    with journal.open("a") as file:
        file.write('{"seed": 99, "method": "PO')  # the power went here
    with cloud(journal, tmp_path) as client:
        assert sorted(machines(client)) == sorted(kept)
