"""What was delivered, charged, invoiced and paid stays as it was written (M5, M6, M8)."""

from decimal import Decimal

import django.db.models.deletion
from django.db import migrations, models

# M5. A record lies inside its allocation's delivered time; FOR SHARE lets no concurrent change of
# ``delivered`` slip between the look and the insert. A record is never edited; it goes only when
# its charge was taken back, so that the same time can be charged again, rightly.
USAGE = """
CREATE FUNCTION billing_usage_inside_delivered() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    delivered tstzrange;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF NOT EXISTS (
            SELECT FROM billing_charge c JOIN billing_charge taken_back ON taken_back.source = 'reversal:' || c.uid
            WHERE c.id = OLD.charge_id
        ) THEN
            RAISE EXCEPTION 'Usage record % goes only after its charge was taken back (M5).', OLD.id
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'usage_append_only';
        END IF;
        RETURN OLD;
    ELSIF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'A usage record is never changed (M5).'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'usage_append_only';
    END IF;
    SELECT a.delivered INTO delivered FROM leases_allocation a WHERE a.id = NEW.allocation_id FOR SHARE;
    IF delivered IS NULL OR NOT NEW.period <@ delivered THEN
        RAISE EXCEPTION 'Usage % leaves the delivered time % of allocation % (M5).',
            NEW.period, coalesce(delivered::text, '(none)'), NEW.allocation_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'usage_inside_delivered';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER usage_inside_delivered BEFORE INSERT OR UPDATE OR DELETE ON billing_usagerecord
    FOR EACH ROW EXECUTE FUNCTION billing_usage_inside_delivered();
"""
USAGE_BACK = """
DROP TRIGGER usage_inside_delivered ON billing_usagerecord;
DROP FUNCTION billing_usage_inside_delivered();
"""

# M6. A draft may change; a numbered invoice only moves on, and its lines never do. A charge stays as
# it is and moves between lines only while their invoices are drafts or void.
INVOICES = """
CREATE FUNCTION billing_invoice_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change CONSTANT text[] := ARRAY['state', 'voided_at', 'void_reason'];
BEGIN
    IF OLD.state = 'draft' THEN
        IF TG_OP = 'DELETE' THEN
            RETURN OLD;
        END IF;
        IF NEW.state = 'void' THEN
            RAISE EXCEPTION 'A draft is deleted, not voided (M6).'
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'invoice_frozen';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR OLD.state = 'void' OR NEW.state = 'draft'
        OR to_jsonb(NEW) - may_change IS DISTINCT FROM to_jsonb(OLD) - may_change
        OR (NEW.state = 'void') <> (NEW.voided_at IS NOT NULL)
        OR (NEW.state <> 'void' AND NEW.void_reason <> '')
        OR (NEW.state = 'void' AND NEW.void_reason = '')
    THEN
        RAISE EXCEPTION 'Invoice % is finalized and never changes: void it with a reason instead (M6).', OLD.number
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'invoice_frozen';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER invoice_frozen BEFORE UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION billing_invoice_frozen();

CREATE FUNCTION billing_invoice_equals_lines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_is billing_invoice;
    net numeric;
    tax numeric;
BEGIN
    SELECT * INTO now_is FROM billing_invoice WHERE id = NEW.id;
    IF now_is.id IS NULL OR now_is.state = 'draft' THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(sum(l.amount), 0), coalesce(sum(l.tax_amount), 0) INTO net, tax
    FROM billing_invoiceline l WHERE l.invoice_id = now_is.id;
    IF now_is.subtotal <> net OR now_is.tax <> tax THEN
        RAISE EXCEPTION 'Invoice % says % and % tax, its lines % and % (M6).',
            now_is.number, now_is.subtotal, now_is.tax, net, tax
            USING ERRCODE = 'check_violation', CONSTRAINT = 'invoice_equals_lines';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER invoice_equals_lines AFTER INSERT OR UPDATE ON billing_invoice
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_invoice_equals_lines();

CREATE FUNCTION billing_invoice_line_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line billing_invoiceline;
    state text;
BEGIN
    FOREACH line IN ARRAY
        CASE TG_OP WHEN 'INSERT' THEN ARRAY[NEW] WHEN 'DELETE' THEN ARRAY[OLD] ELSE ARRAY[OLD, NEW] END
    LOOP
        SELECT i.state INTO state FROM billing_invoice i WHERE i.id = line.invoice_id FOR SHARE;
        IF state <> 'draft' THEN
            RAISE EXCEPTION '% refused: the lines of a finalized invoice never change (M6).', TG_OP
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'invoice_line_frozen';
        END IF;
    END LOOP;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

CREATE TRIGGER invoice_line_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION billing_invoice_line_frozen();

CREATE FUNCTION billing_charge_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    state text;
BEGIN
    IF TG_OP = 'DELETE' OR to_jsonb(NEW) - 'invoice_line_id' IS DISTINCT FROM to_jsonb(OLD) - 'invoice_line_id'
    THEN
        RAISE EXCEPTION 'Charge % is never changed: grant a credit instead (M6).', OLD.uid
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'charge_frozen';
    END IF;
    IF NEW.invoice_line_id IS DISTINCT FROM OLD.invoice_line_id THEN
        SELECT i.state INTO state FROM billing_invoiceline l JOIN billing_invoice i ON i.id = l.invoice_id
        WHERE l.id = OLD.invoice_line_id;
        IF state IN ('open', 'paid') THEN
            RAISE EXCEPTION 'Charge % is on a finalized invoice (M6).', OLD.uid
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'charge_frozen';
        END IF;
        SELECT i.state INTO state FROM billing_invoiceline l JOIN billing_invoice i ON i.id = l.invoice_id
        WHERE l.id = NEW.invoice_line_id;
        IF state <> 'draft' THEN
            RAISE EXCEPTION 'Charge % can only go on a draft (M6).', OLD.uid
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'charge_frozen';
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER charge_frozen BEFORE UPDATE OR DELETE ON billing_charge
    FOR EACH ROW EXECUTE FUNCTION billing_charge_frozen();
"""
INVOICES_BACK = """
DROP TRIGGER charge_frozen ON billing_charge;
DROP FUNCTION billing_charge_frozen();
DROP TRIGGER invoice_line_frozen ON billing_invoiceline;
DROP FUNCTION billing_invoice_line_frozen();
DROP TRIGGER invoice_equals_lines ON billing_invoice;
DROP FUNCTION billing_invoice_equals_lines();
DROP TRIGGER invoice_frozen ON billing_invoice;
DROP FUNCTION billing_invoice_frozen();
"""

# M8. What was received stays received; an allocation is undone once, never edited.
PAYMENTS = """
CREATE TRIGGER payment_append_only BEFORE UPDATE OR DELETE ON billing_payment
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();

CREATE FUNCTION billing_payment_allocation_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.reversed_at IS NOT NULL
        OR to_jsonb(NEW) - 'reversed_at' IS DISTINCT FROM to_jsonb(OLD) - 'reversed_at'
    THEN
        RAISE EXCEPTION 'A payment allocation is reversed once and otherwise never changed (M8).'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'payment_allocation_frozen';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER payment_allocation_frozen BEFORE UPDATE OR DELETE ON billing_paymentallocation
    FOR EACH ROW EXECUTE FUNCTION billing_payment_allocation_frozen();
"""
PAYMENTS_BACK = """
DROP TRIGGER payment_allocation_frozen ON billing_paymentallocation;
DROP FUNCTION billing_payment_allocation_frozen();
DROP TRIGGER payment_append_only ON billing_payment;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_ledger_rules"), ("leases", "0001_initial")]
    operations = [
        migrations.AddField(
            model_name="fundshold",
            name="tax_rate",
            field=models.DecimalField(
                decimal_places=6, default=Decimal(0), max_digits=7, verbose_name="tax rate"
            ),
        ),
        migrations.AlterField(
            model_name="payment",
            name="method",
            field=models.CharField(
                choices=[("top_up", "Wallet top-up"), ("wallet", "Wallet"), ("bank", "Bank transfer")],
                max_length=16,
                verbose_name="method",
            ),
        ),
        migrations.AlterField(
            model_name="charge",
            name="entry",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="charge",
                to="billing.entry",
            ),
        ),
        migrations.AddConstraint(
            model_name="charge",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("amount", 0), ("entry", None)),
                    models.Q(models.Q(("amount", 0), _negated=True), ("entry__isnull", False)),
                    _connector="OR",
                ),
                name="charge_has_its_entry",
            ),
        ),
        migrations.RunSQL(USAGE, USAGE_BACK),
        migrations.RunSQL(INVOICES, INVOICES_BACK),
        migrations.RunSQL(PAYMENTS, PAYMENTS_BACK),
    ]
