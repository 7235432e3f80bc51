-- A decommission ends the lifetime that it met, also one that had not begun: every lifetime up to this beginning. Absent: up to
-- the decommission.
ALTER TABLE records ADD COLUMN decommissioned_covers TEXT;
