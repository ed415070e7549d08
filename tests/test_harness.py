"""What every other test relies on."""

import pytest
from django.contrib.auth import get_user_model
from django.db import ProgrammingError, connection

from tests.concurrency import race

User = get_user_model()


@pytest.mark.django_db
def test_the_product_runs_as_a_role_that_owns_nothing():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, count(*) FROM pg_tables WHERE tableowner = current_user GROUP BY 1"
        )
        assert cursor.fetchall() == []
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("sublet_app",)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "statement", ["TRUNCATE accounts_user", "DROP TABLE accounts_user", "CREATE TABLE mine ()"]
)
def test_that_role_may_not_change_the_schema(statement):
    with (
        connection.cursor() as cursor,
        pytest.raises(ProgrammingError, match=r"permission denied|must be owner"),
    ):
        cursor.execute(statement)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("time", [1, 2])
def test_committed_rows_are_gone_before_the_next_test(time):
    assert User.objects.count() == 0
    User.objects.create(email="a@example.com")


@pytest.mark.django_db(transaction=True)
def test_raced_calls_run_at_once_and_report_their_errors():
    def add():
        return User.objects.create(email="same@example.com").pk

    results = race([add] * 8)
    assert sorted(isinstance(result, Exception) for result in results) == [False] + [True] * 7
    assert User.objects.count() == 1


def test_the_demo_cloud_starts_empty(moto_ec2):
    import boto3

    ec2 = boto3.client(
        "ec2",
        endpoint_url=moto_ec2,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    assert ec2.describe_instances()["Reservations"] == []
    ec2.run_instances(MinCount=1, MaxCount=1, ImageId="ami-12c6146b", InstanceType="p4d.24xlarge")
    assert len(ec2.describe_instances()["Reservations"]) == 1
