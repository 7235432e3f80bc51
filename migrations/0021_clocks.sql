-- What both clocks said when the latest time was last noted.
ALTER TABLE clock ADD COLUMN wall TEXT;
ALTER TABLE clock ADD COLUMN boot TEXT;
ALTER TABLE clock ADD COLUMN elapsed_ns INTEGER;
