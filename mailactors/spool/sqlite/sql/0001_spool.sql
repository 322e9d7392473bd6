-- The spool of one gateway. Times are UTC seconds and always come from the program, never from SQL.

PRAGMA application_id = 0x6d616374;  -- 'mact': how the program knows a spool of its own

-- Leases take their epoch from here: each claim raises it, so that no two leases share one.
CREATE TABLE spool (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  epoch INTEGER NOT NULL
) STRICT;
INSERT INTO spool VALUES (1, 0);

-- AUTOINCREMENT, here and for events: a seq is never used again, even after retention.
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  client_id TEXT NOT NULL,
  message_id TEXT NOT NULL,
  stream TEXT NOT NULL,
  sender TEXT NOT NULL,
  subject TEXT NOT NULL,
  date_s REAL NOT NULL,
  accepted_at REAL NOT NULL,
  not_before REAL NOT NULL,
  expires_at REAL NOT NULL,
  size_bytes INTEGER NOT NULL,
  digest TEXT NOT NULL,
  recipients_total INTEGER NOT NULL,      -- the ledger's `accepted`: written once, never changed
  open_count INTEGER NOT NULL,            -- deliveries that are not final
  attempts INTEGER NOT NULL DEFAULT 0,
  declared_risks INTEGER NOT NULL DEFAULT 0,
  crash_count INTEGER NOT NULL DEFAULT 0, -- times that its owner died while holding it
  progress BLOB NOT NULL                  -- msgpack of port.Progress
) STRICT;
CREATE INDEX messages_open ON messages (expires_at) WHERE open_count > 0;
CREATE INDEX messages_client ON messages (client_id) WHERE client_id <> '';

-- Apart from messages, so that listing those reads no bodies and retention can drop them.
CREATE TABLE contents (
  seq INTEGER PRIMARY KEY,
  packed BLOB NOT NULL
) STRICT;

CREATE TABLE deliveries (
  seq INTEGER NOT NULL,
  n INTEGER NOT NULL,
  recipient TEXT NOT NULL,
  domain TEXT NOT NULL,
  stream TEXT NOT NULL,
  state TEXT NOT NULL,
  due_at REAL NOT NULL,
  provider TEXT NOT NULL DEFAULT '',
  attempt_id TEXT NOT NULL DEFAULT '',    -- the last intent that it was part of
  attempts INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '',
  updated_at REAL NOT NULL,
  epoch INTEGER NOT NULL DEFAULT 0,
  node TEXT NOT NULL DEFAULT '',
  evidence TEXT NOT NULL DEFAULT '',      -- what a vendor reported later
  PRIMARY KEY (seq, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (stream, due_at, seq, n)
  WHERE state IN ('ready', 'deferred');
CREATE INDEX deliveries_taken ON deliveries (seq, n) WHERE state IN ('leased', 'sending');
CREATE INDEX deliveries_uncertain ON deliveries (due_at, seq, n) WHERE state = 'uncertain';

-- An intent has started_at. A row without it is an outcome that needed no intent (no session was
-- to be had); it is there so that a replay of the outcome is known for one.
CREATE TABLE attempts (
  id TEXT PRIMARY KEY,
  seq INTEGER NOT NULL,
  ns TEXT NOT NULL,                       -- JSON array
  provider TEXT NOT NULL,
  digest TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  node TEXT NOT NULL,
  started_at REAL,
  finished_at REAL,
  outcome TEXT NOT NULL DEFAULT '',
  is_late INTEGER NOT NULL DEFAULT 0      -- the outcome came when the epoch had moved on
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_started ON attempts (provider, started_at) WHERE started_at IS NOT NULL;

CREATE TABLE keys (
  scope TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  seq INTEGER NOT NULL,
  expires_at REAL NOT NULL,
  PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  message_seq INTEGER NOT NULL,
  at REAL NOT NULL,
  kind TEXT NOT NULL,
  facts TEXT NOT NULL                     -- JSON object
) STRICT;
CREATE INDEX events_message ON events (message_seq);
