-- Decommissions at which what was still in flight in the first two seconds was told apart from later attempts.
CREATE TABLE closings (
    service   TEXT NOT NULL,
    closed_at TEXT NOT NULL,
    at_close  INTEGER NOT NULL CHECK (at_close >= 0),
    PRIMARY KEY (service, closed_at)
) STRICT, WITHOUT ROWID;
