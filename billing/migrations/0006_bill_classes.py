"""Keep a bill's class totals for lists, and let PostgreSQL refuse what V4 forbids."""

from django.db import migrations, models

GRANT = "GRANT UPDATE (classes) ON billing_vendorbill TO sublet_app;"
REVOKE = "REVOKE UPDATE (classes) ON billing_vendorbill FROM sublet_app;"

# Both sides: a bill is not approved over an open material finding, and none opens under an approved
# bill. Approval and classification take the month's advisory lock, so neither misses the other.
V4 = """
CREATE FUNCTION billing_bill_is_settled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_finding f
        WHERE f.account_id = NEW.account_id AND f.month = NEW.month AND f.state = 'open' AND f.material
    ) THEN
        RAISE EXCEPTION 'Bill % has an open material finding (V4).', NEW.uid
            USING ERRCODE = 'check_violation', CONSTRAINT = 'approved_bill_is_settled';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION billing_finding_not_under_approved_bill() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_vendorbill b
        WHERE b.account_id = NEW.account_id AND b.month = NEW.month AND b.state = 'approved'
    ) THEN
        RAISE EXCEPTION 'Finding % cannot be open: its bill is approved (V4).', NEW.uid
            USING ERRCODE = 'check_violation', CONSTRAINT = 'approved_bill_is_settled';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER bill_is_settled BEFORE INSERT OR UPDATE OF state ON billing_vendorbill
    FOR EACH ROW WHEN (NEW.state = 'approved') EXECUTE FUNCTION billing_bill_is_settled();
CREATE TRIGGER finding_not_under_approved_bill BEFORE INSERT OR UPDATE OF state, material ON billing_finding
    FOR EACH ROW WHEN (NEW.state = 'open' AND NEW.material)
    EXECUTE FUNCTION billing_finding_not_under_approved_bill();
"""
V4_BACK = """
DROP TRIGGER finding_not_under_approved_bill ON billing_finding;
DROP TRIGGER bill_is_settled ON billing_vendorbill;
DROP FUNCTION billing_finding_not_under_approved_bill();
DROP FUNCTION billing_bill_is_settled();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_charge_started_at")]
    operations = [
        migrations.AddField(
            model_name="vendorbill",
            name="classes",
            field=models.JSONField(blank=True, default=dict),
        ),
        migrations.RunSQL(GRANT, REVOKE),
        migrations.RunSQL(V4, V4_BACK),
    ]
