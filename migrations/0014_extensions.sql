-- An opening that was prolonged by order, or opened once.
ALTER TABLE records ADD COLUMN extended_at TEXT;
ALTER TABLE records ADD COLUMN extended_until TEXT;
ALTER TABLE records ADD COLUMN extended_by TEXT;
ALTER TABLE records ADD COLUMN extended_reason TEXT;
