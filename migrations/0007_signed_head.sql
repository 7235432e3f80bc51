-- The signed statement of what the ledger ends with, renewed with every entry; src/store/statement.rs documents its text.
ALTER TABLE ledger_head ADD COLUMN signed TEXT;

-- When attempts were last sealed into the ledger.
CREATE TABLE seals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at TEXT NOT NULL
) STRICT;
