-- What was in force at an instant is told by the entries about files, and by the last one about each service's state:
-- src/store/past.rs asks for them in these very words.
CREATE INDEX ledger_defining ON ledger (seq)
WHERE kind IN ('config.applied', 'daemon.started');

CREATE INDEX ledger_telling ON ledger (service, seq)
WHERE kind IN ('service.commissioned', 'service.suspended', 'service.resumed', 'service.decommissioned', 'window.opened',
               'window.closed', 'watch.ended');
