-- Which process it was, as far as it was seen last; which part of the count came in the moments after a close, when what was
-- in flight still arrives, and when the first came after those.
ALTER TABLE attempts ADD COLUMN pid INTEGER;
ALTER TABLE attempts ADD COLUMN exe TEXT;
ALTER TABLE attempts ADD COLUMN at_close INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN first_late TEXT;
UPDATE attempts SET first_late = first_seen;

-- Sums for ever, whatever becomes of the rows; `sealed` is what the ledger has of them.
CREATE TABLE attempt_totals (
    service   TEXT NOT NULL,
    direction TEXT NOT NULL,
    reason    TEXT NOT NULL,
    verdict   TEXT NOT NULL,
    count     INTEGER NOT NULL,
    sealed    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (service, direction, reason, verdict)
) STRICT, WITHOUT ROWID;

-- `service` is empty for segments, here and below: a key has no nulls.
INSERT INTO attempt_totals (service, direction, reason, verdict, count)
SELECT coalesce(service, ''), direction, reason, verdict, sum(count)
FROM attempts GROUP BY coalesce(service, ''), direction, reason, verdict;

-- Counts by hour for charts. Sources beyond a bounded number an hour stand together as `other`.
CREATE TABLE attempt_hours (
    service   TEXT NOT NULL,
    hour      TEXT NOT NULL,
    direction TEXT NOT NULL,
    reason    TEXT NOT NULL,
    remote    TEXT NOT NULL,
    count     INTEGER NOT NULL,
    PRIMARY KEY (service, hour, direction, reason, remote)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempt_hours_hour ON attempt_hours (hour);

-- Signed heads of the ledger; src/store/checkpoint.rs documents what is signed.
CREATE TABLE checkpoints (
    seq       INTEGER PRIMARY KEY,
    at        TEXT NOT NULL,
    hash      TEXT NOT NULL,
    key       TEXT NOT NULL,
    signature TEXT NOT NULL
) STRICT;
