-- Sources that came after a decommission and that the command of [notify] was not told of yet; the rows themselves are in
-- attempts. `service` is empty for none. And how many more there were than wait here.
CREATE TABLE news (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    service   TEXT NOT NULL,
    remote    TEXT NOT NULL,
    direction TEXT NOT NULL,
    reason    TEXT NOT NULL
) STRICT;

CREATE TABLE news_skipped (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;

INSERT INTO news_skipped (id, number) VALUES (1, 0);
