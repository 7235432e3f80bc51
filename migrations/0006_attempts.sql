-- In which order rows counted further: a follower goes on behind the last that it saw.
ALTER TABLE attempts ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;

CREATE TABLE attempt_changes (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    latest INTEGER NOT NULL
) STRICT;

INSERT INTO attempt_changes (id, latest) VALUES (1, 0);

CREATE INDEX attempts_changed ON attempts (changed) WHERE changed > 0;
CREATE INDEX attempts_remote ON attempts (remote);

-- How many rows a service has (none: segments), since counting them takes a second for every few millions.
CREATE TABLE attempt_rows (
    service TEXT PRIMARY KEY,
    number  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO attempt_rows (service, number)
SELECT coalesce(service, ''), count(*) FROM attempts GROUP BY coalesce(service, '');

CREATE TRIGGER attempts_come AFTER INSERT ON attempts
BEGIN
    INSERT INTO attempt_rows (service, number) VALUES (coalesce(new.service, ''), 1)
    ON CONFLICT (service) DO UPDATE SET number = number + 1;
END;

CREATE TRIGGER attempts_go AFTER DELETE ON attempts
BEGIN
    UPDATE attempt_rows SET number = number - 1 WHERE service = coalesce(old.service, '');
END;

-- What a store writes and takes back that was broken: proof of some room, and not of the one page that was just left.
ALTER TABLE probe ADD COLUMN room BLOB;
