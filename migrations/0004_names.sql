-- Every address that a host name has and had, so that a decommissioned service keeps refusing them all, and a daemon
-- that starts without a resolver knows what to admit.
CREATE TABLE names (
    name          TEXT NOT NULL,
    address       TEXT NOT NULL,
    since         TEXT NOT NULL,
    resolved      INTEGER NOT NULL CHECK (resolved IN (0, 1)),
    learned_until TEXT,
    left_at       TEXT,
    kept_until    TEXT,
    PRIMARY KEY (name, address),
    CHECK (left_at IS NOT NULL OR kept_until IS NULL)
) STRICT, WITHOUT ROWID;
