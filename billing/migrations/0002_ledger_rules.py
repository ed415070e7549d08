"""The ledger's rules are PostgreSQL's: whoever writes to it, they hold (M1-M4).

The product connects as ``sublet_app``, which owns nothing and so cannot disable a
trigger. Only a superuser under ``session_replication_role = replica`` passes (the
tests' cleaning does).
"""

from django.db import migrations, models

# M1. With a trigger on entries alone, a posting added in a later transaction gets in one-sided; with
# the number of lines kept on the entry, not even a balanced pair gets in late.
M1 = """
CREATE FUNCTION billing_check_entry(which bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    expected integer;
    found integer;
BEGIN
    SELECT lines INTO expected FROM billing_entry WHERE id = which;
    IF expected IS NULL THEN
        RETURN;
    END IF;
    SELECT count(*) INTO found FROM billing_posting WHERE entry_id = which;
    IF found <> expected THEN
        RAISE EXCEPTION 'Entry % was made with % lines and has % (M1).', which, expected, found
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_keeps_its_lines';
    END IF;
    IF EXISTS (
        SELECT FROM billing_posting WHERE entry_id = which GROUP BY currency HAVING sum(amount) <> 0
    ) THEN
        RAISE EXCEPTION 'Entry % does not balance (M1).', which
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_balances';
    END IF;
    IF EXISTS (
        SELECT FROM billing_posting p JOIN billing_ledgeraccount a ON a.id = p.account_id
        WHERE p.entry_id = which AND a.currency <> p.currency
    ) THEN
        RAISE EXCEPTION 'Entry % posts to an account of another currency (M1).', which
            USING ERRCODE = 'check_violation', CONSTRAINT = 'posting_in_its_accounts_currency';
    END IF;
END
$$;

CREATE FUNCTION billing_entry_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM billing_check_entry(NEW.id);
    RETURN NULL;
END
$$;

CREATE FUNCTION billing_posting_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM billing_check_entry(NEW.entry_id);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER entry_balances AFTER INSERT ON billing_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_entry_balances();
CREATE CONSTRAINT TRIGGER posting_balances AFTER INSERT ON billing_posting
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_posting_balances();
"""
M1_BACK = """
DROP TRIGGER posting_balances ON billing_posting;
DROP TRIGGER entry_balances ON billing_entry;
DROP FUNCTION billing_posting_balances();
DROP FUNCTION billing_entry_balances();
DROP FUNCTION billing_check_entry(bigint);
"""

# M2. The REVOKE stops the product, the triggers stop the owner as well.
M2 = """
REVOKE UPDATE, DELETE, TRUNCATE ON billing_entry, billing_posting FROM sublet_app;

CREATE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% refused: % is never changed, post a reversal instead (M2).', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', CONSTRAINT = TG_TABLE_NAME || '_append_only';
END
$$;

CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON billing_entry
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER entry_not_truncated BEFORE TRUNCATE ON billing_entry
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE ON billing_posting
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER posting_not_truncated BEFORE TRUNCATE ON billing_posting
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

-- An account that moved to another customer would rewrite history without touching a posting.
CREATE TRIGGER ledger_account_fixed BEFORE UPDATE ON billing_ledgeraccount
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
"""
M2_BACK = """
DROP TRIGGER ledger_account_fixed ON billing_ledgeraccount;
DROP TRIGGER posting_not_truncated ON billing_posting;
DROP TRIGGER posting_append_only ON billing_posting;
DROP TRIGGER entry_not_truncated ON billing_entry;
DROP TRIGGER entry_append_only ON billing_entry;
DROP FUNCTION billing_refuse_change();
GRANT UPDATE, DELETE ON billing_entry, billing_posting TO sublet_app;
"""

# M3. FOR SHARE waits for a close that is under way and then sees its result; without the lock the
# posting would read the period as it was before, and land in a closed month.
M3 = """
CREATE FUNCTION billing_entry_in_open_period() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    period billing_accountingperiod;
BEGIN
    SELECT * INTO period FROM billing_accountingperiod WHERE id = NEW.period_id FOR SHARE;
    IF period.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'The period % is closed (M3).', to_char(period.month, 'YYYY-MM')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_in_open_period';
    END IF;
    IF period.month < date_trunc('month', NEW.effective_at AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'An entry of % cannot be posted to the earlier period % (M3).',
            NEW.effective_at, to_char(period.month, 'YYYY-MM')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'entry_not_before_it_happened';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER entry_in_open_period BEFORE INSERT ON billing_entry
    FOR EACH ROW EXECUTE FUNCTION billing_entry_in_open_period();

-- Closed is for good, and everything before a closed month is closed too.
CREATE FUNCTION billing_period_stays_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.closed_at IS NULL AND EXISTS (
            SELECT FROM billing_accountingperiod WHERE month > NEW.month AND closed_at IS NOT NULL
        ) THEN
            RAISE EXCEPTION 'The books are closed past % (M3).', to_char(NEW.month, 'YYYY-MM')
                USING ERRCODE = 'check_violation', CONSTRAINT = 'period_stays_closed';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'The period % is closed and stays so (M3).', to_char(OLD.month, 'YYYY-MM')
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'period_stays_closed';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF NEW.month <> OLD.month THEN
        RAISE EXCEPTION 'A period keeps its month (M3).'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'period_stays_closed';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER period_stays_closed BEFORE INSERT OR UPDATE OR DELETE ON billing_accountingperiod
    FOR EACH ROW EXECUTE FUNCTION billing_period_stays_closed();
"""
M3_BACK = """
DROP TRIGGER period_stays_closed ON billing_accountingperiod;
DROP FUNCTION billing_period_stays_closed();
DROP TRIGGER entry_in_open_period ON billing_entry;
DROP FUNCTION billing_entry_in_open_period();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]
    operations = [
        migrations.AddField(
            model_name="entry",
            name="lines",
            field=models.PositiveSmallIntegerField(default=2, verbose_name="lines"),
            preserve_default=False,
        ),
        migrations.AddConstraint(
            model_name="entry",
            constraint=models.CheckConstraint(
                condition=models.Q(("lines__gte", 2)), name="entry_has_two_lines"
            ),
        ),
        migrations.RunSQL(M1, M1_BACK),
        migrations.RunSQL(M2, M2_BACK),
        migrations.RunSQL(M3, M3_BACK),
    ]
