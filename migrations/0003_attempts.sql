-- Refused packets and observed flows, aggregated. `identity` is the SHA-256 of every column up to `also`, so that
-- absent facts compare equal.
CREATE TABLE attempts (
    identity    BLOB PRIMARY KEY,
    service     TEXT,
    provider    TEXT,
    policy      TEXT,
    direction   TEXT NOT NULL,
    reason      TEXT NOT NULL,
    verdict     TEXT NOT NULL,
    protocol    TEXT NOT NULL,
    remote      TEXT NOT NULL,
    remote_port INTEGER,
    local       TEXT,
    local_port  INTEGER,
    subject     TEXT,
    uid         INTEGER,
    also        TEXT NOT NULL,
    count       INTEGER NOT NULL CHECK (count >= 0),
    first_seen  TEXT NOT NULL,
    last_seen   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_service ON attempts (service, last_seen);
CREATE INDEX attempts_last_seen ON attempts (last_seen);

-- The value that a kernel counter had when it was last read.
CREATE TABLE counters (
    set_name TEXT NOT NULL,
    key      BLOB NOT NULL,
    packets  INTEGER NOT NULL CHECK (packets > 0),
    PRIMARY KEY (set_name, key)
) STRICT, WITHOUT ROWID;
