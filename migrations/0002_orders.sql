-- What operators ordered, as given.
CREATE TABLE orders (
    number  INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    kind    TEXT NOT NULL,
    at      TEXT NOT NULL,
    by      TEXT NOT NULL,
    reason  TEXT NOT NULL
) STRICT;

CREATE INDEX orders_service ON orders (service, number);

-- What stands for a service beside its file.
CREATE TABLE records (
    service               TEXT PRIMARY KEY,
    suspended_at          TEXT,
    suspended_by          TEXT,
    suspended_reason      TEXT,
    decommissioned_at     TEXT,
    decommissioned_cause  TEXT,
    decommissioned_by     TEXT,
    decommissioned_reason TEXT,
    CHECK ((suspended_at IS NULL) = (suspended_by IS NULL)),
    CHECK ((suspended_at IS NULL) = (suspended_reason IS NULL)),
    CHECK ((decommissioned_at IS NULL) = (decommissioned_cause IS NULL))
) STRICT, WITHOUT ROWID;

-- Ids of the latest facts that were written: one that is replayed from the journal counts once.
CREATE TABLE settled (
    number INTEGER PRIMARY KEY,
    id     TEXT NOT NULL UNIQUE
) STRICT;

-- The latest wall-clock time that was seen.
CREATE TABLE clock (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    latest_seen TEXT NOT NULL
) STRICT;

-- Written by the health probe only.
CREATE TABLE probe (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;

INSERT INTO probe (id, writes) VALUES (1, 0);
