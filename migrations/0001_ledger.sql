-- "pico": tells this database from that of another program.
PRAGMA application_id = 0x7069636f;

-- The hash-chained record of what was decided and done; src/store/chain.rs documents the hash.
CREATE TABLE ledger (
    seq     INTEGER PRIMARY KEY CHECK (seq > 0),
    at      TEXT NOT NULL,
    kind    TEXT NOT NULL,
    service TEXT,
    actor   TEXT NOT NULL,
    detail  TEXT NOT NULL,
    prev    TEXT NOT NULL,
    hash    TEXT NOT NULL
) STRICT;

CREATE INDEX ledger_at ON ledger (at);
CREATE INDEX ledger_service ON ledger (service, seq);

-- What the last entry has to be: an entry that was cut off at the end is missed.
CREATE TABLE ledger_head (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    seq  INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT;

INSERT INTO ledger_head (id, seq, hash)
VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');

-- Against accidents; the chain is what tells of intent.
CREATE TRIGGER ledger_keeps_entries BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_keeps_content BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
