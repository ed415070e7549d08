"""EC2: what is asked, checked against AWS's own description, and how its errors are understood."""

from __future__ import annotations

import email
import json
import re
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber
from django.conf import settings

import inventory.providers.aws
from inventory.providers.aws import Ec2Provider
from inventory.providers.aws.errors import translated
from inventory.providers.base import LaunchGroup, PurchaseOption
from inventory.providers.cloud_init import user_data
from inventory.providers.errors import (
    AuthFailed,
    BadAnswer,
    NoCapacity,
    NotFound,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    TimedOut,
)
from tests.inventory.conftest import KEYS

REGION = "us-east-1"


def stubbed(**settings) -> tuple[Ec2Provider, Stubber]:
    alone = {"image": "ami-12c6146b", "efa": "none", "buying": "none", "prices": "rate_card"}
    cloud = Ec2Provider(credentials=KEYS, settings={**alone, **settings})
    return cloud, Stubber(cloud.session.ec2(REGION, attempts=1))


def asked(group: LaunchGroup, **settings) -> dict:
    """Launch against AWS's own service description; returns the parameters that it accepted."""
    cloud, stub = stubbed(**settings)
    seen: dict = {}
    cloud.session.ec2(REGION, attempts=1).meta.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: seen.update(params)
    )
    instances = [{"InstanceId": f"i-{number:017x}"} for number in range(group.count)]
    stub.add_response("run_instances", {"Instances": instances})
    with stub:
        cloud.launch(group)
    stub.assert_no_pending_responses()
    return seen


def test_committed_capacity_is_targeted_and_nothing_else():
    group = LaunchGroup(
        "lau_1", 2, "p5.48xlarge", REGION, zone="us-east-1a", reservation_id="cr-0123456789abcdef0"
    )
    parameters = asked(group)
    assert parameters["CapacityReservationSpecification"] == {
        "CapacityReservationTarget": {"CapacityReservationId": "cr-0123456789abcdef0"}
    }
    assert "InstanceMarketOptions" not in parameters
    assert (parameters["MinCount"], parameters["MaxCount"]) == (2, 2)


def test_a_reservation_group_is_targeted_by_its_arn():
    arn = "arn:aws:resource-groups:us-east-1:123456789012:group/h100"
    parameters = asked(LaunchGroup("lau_1", 1, "p5.48xlarge", REGION, reservation_id=arn))
    assert parameters["CapacityReservationSpecification"] == {
        "CapacityReservationTarget": {"CapacityReservationResourceGroupArn": arn}
    }


def test_on_demand_never_uses_up_a_reservation():
    parameters = asked(LaunchGroup("lau_1", 1, "p5.48xlarge", REGION))
    assert parameters["CapacityReservationSpecification"] == {"CapacityReservationPreference": "none"}


def test_spot_ends_and_is_not_stopped():
    parameters = asked(LaunchGroup("lau_1", 1, "p5.48xlarge", REGION, purchase_option=PurchaseOption.SPOT))
    assert parameters["InstanceMarketOptions"]["MarketType"] == "spot"
    assert parameters["InstanceMarketOptions"]["SpotOptions"]["InstanceInterruptionBehavior"] == "terminate"


def test_everything_made_by_a_launch_is_tagged():
    group = LaunchGroup(
        "lau_1",
        1,
        "p5.48xlarge",
        REGION,
        zone="us-east-1b",
        tags={"sublet:lease": "lse_1"},
        firewall_id="sg-1",
        key_name="k",
    )
    parameters = asked(group, subnets={"us-east-1b": "subnet-1"})

    wanted = {"sublet:lease": "lse_1", "sublet:token": "lau_1"}
    tagged = {
        item["ResourceType"]: {tag["Key"]: tag["Value"] for tag in item["Tags"]}
        for item in parameters["TagSpecifications"]
    }
    assert tagged == {"instance": wanted, "volume": wanted, "network-interface": wanted}
    assert parameters["ClientToken"] == "lau_1"
    assert parameters["SubnetId"] == "subnet-1"
    assert parameters["SecurityGroupIds"] == ["sg-1"]
    assert parameters["MetadataOptions"]["HttpTokens"] == "required"


def test_all_keys_get_in_by_user_data():
    keys = ("ssh-ed25519 AAAA a\n", "ecdsa-sha2-nistp256 BBBB b")
    config = user_data(keys, "")
    assert config.startswith("#cloud-config\n")
    assert json.loads(config.split("\n", 1)[1]) == {
        "ssh_authorized_keys": ["ssh-ed25519 AAAA a", "ecdsa-sha2-nistp256 BBBB b"]
    }
    both = email.message_from_string(user_data(keys, "#!/bin/sh\necho hello\n"))
    assert [part.get_content_type() for part in both.get_payload()] == [
        "text/cloud-config",
        "text/x-shellscript",
    ]
    assert user_data((), "#!/bin/sh\n") == "#!/bin/sh\n"


def test_fewer_machines_than_asked_is_a_doubt():
    cloud, stub = stubbed()
    stub.add_response("run_instances", {"Instances": [{"InstanceId": "i-1"}]})
    with stub, pytest.raises(BadAnswer, match="1 of 2") as refusal:
        cloud.launch(LaunchGroup("lau_1", 2, "p5.48xlarge", REGION))
    assert refusal.value.doubtful


@pytest.mark.parametrize(
    ("code", "status", "error", "retryable", "doubtful"),
    [
        ("InsufficientInstanceCapacity", 500, NoCapacity, True, False),
        ("ReservationCapacityExceeded", 400, NoCapacity, True, False),
        ("InstanceLimitExceeded", 400, QuotaExceeded, False, False),
        ("VcpuLimitExceeded", 400, QuotaExceeded, False, False),
        ("AuthFailure", 401, AuthFailed, False, False),
        ("UnauthorizedOperation", 403, AuthFailed, False, False),
        ("InvalidClientTokenId", 403, AuthFailed, False, False),
        ("ExpiredToken", 400, AuthFailed, False, False),
        ("RequestLimitExceeded", 503, RateLimited, True, False),
        ("Throttling", 400, RateLimited, True, False),
        ("AnythingNew", 429, RateLimited, True, False),
        ("InvalidInstanceID.NotFound", 400, NotFound, False, False),
        ("InternalError", 500, ProviderError, True, True),
        ("Unavailable", 503, ProviderError, True, True),
        ("DependencyViolation", 400, ProviderError, True, False),
        ("IdempotentParameterMismatch", 400, ProviderError, False, False),
        ("502", 502, BadAnswer, True, True),
    ],
)
def test_errors_say_what_may_be_done(code, status, error, retryable, doubtful):
    cloud, stub = stubbed()
    stub.add_client_error("run_instances", code, "Their words.", http_status_code=status)
    with stub, pytest.raises(ProviderError) as refusal:
        cloud.launch(LaunchGroup("lau_1", 1, "p5.48xlarge", REGION))
    assert type(refusal.value) is error
    assert (refusal.value.retryable, refusal.value.doubtful) == (retryable, doubtful)
    assert refusal.value.code == code
    assert str(refusal.value).startswith("run_instances: ")
    assert str(refusal.value).endswith(f"({code})")


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("soon", 30.0), ("-1", 30.0), (None, 30.0)])
def test_rate_limits_say_when_to_come_back(header, seconds):
    headers = {"retry-after": header} if header else {}
    answer = {
        "Error": {"Code": "Throttling"},
        "ResponseMetadata": {"HTTPHeaders": headers, "HTTPStatusCode": 400},
    }
    with pytest.raises(RateLimited) as refusal, translated("x"):
        raise ClientError(answer, "X")
    assert refusal.value.retry_after == seconds


@pytest.mark.parametrize(
    ("cause", "error", "doubtful"),
    [
        (ReadTimeoutError(endpoint_url="http://x"), TimedOut, True),
        (ConnectTimeoutError(endpoint_url="http://x"), TimedOut, False),
        (ResponseParserError("<html>"), BadAnswer, True),
    ],
)
def test_no_answer_and_a_garbled_one(cause, error, doubtful):
    with pytest.raises(error) as refusal, translated("x"):
        raise cause
    assert refusal.value.doubtful is doubtful
    assert refusal.value.retryable


@pytest.mark.parametrize(
    "item",
    [
        {"InstanceType": "p5.48xlarge", "GpuInfo": {"Gpus": [{"Count": 8}]}},
        {
            "InstanceType": "p5.48xlarge",
            "GpuInfo": {"Gpus": [{"Count": 8, "Manufacturer": "NVIDIA", "Name": "H100"}]},
            "VCpuInfo": {"DefaultVCpus": 192},
            "MemoryInfo": {},
        },
    ],
)
def test_a_garbled_instance_type_names_its_field(item):
    cloud, _stub = stubbed()
    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_response("describe_instance_types", {"InstanceTypes": [item]})
    with stub, pytest.raises(BadAnswer, match=r"p5\.48xlarge lacks or garbles"):
        cloud.offers(REGION)


def test_a_second_page_that_fails_fails_the_whole_catalog():
    cloud, _stub = stubbed()
    stub = Stubber(cloud.session.ec2(REGION))
    stub.add_response("describe_instance_types", {"InstanceTypes": [], "NextToken": "more"})
    stub.add_client_error("describe_instance_types", "Unavailable", http_status_code=503)
    with stub, pytest.raises(ProviderError) as refusal:
        cloud.offers(REGION)
    assert refusal.value.retryable


def test_the_documented_policy_allows_every_call_that_is_made():
    """Whatever EC2 operation the adapter names is in docs/providers/aws.md, and nothing that it never calls."""
    model = stubbed()[0].session.ec2(REGION).meta.service_model
    operations = {xform_name(name): name for name in model.operation_names}
    folder = Path(inventory.providers.aws.__file__).parent
    words = set(re.findall(r"\w+", "".join(file.read_text() for file in folder.glob("*.py"))))
    called = {f"ec2:{operations[word]}" for word in words & operations.keys()}

    page = (settings.BASE_DIR / "docs/providers/aws.md").read_text()
    policy = json.loads(page.split("```json\n")[1].split("```")[0])
    actions = [statement["Action"] for statement in policy["Statement"]]
    allowed = {name for each in actions for name in ([each] if isinstance(each, str) else each)}
    assert allowed == called | {"ec2:CreateTags", "pricing:GetProducts", "ssm:GetParameter"}


def test_a_region_that_cannot_be_is_said():
    cloud = Ec2Provider(credentials=KEYS, settings={"regions": ["nowhere 1"]})
    with pytest.raises(ProviderError, match="nowhere 1"):
        cloud.offers("nowhere 1")
