-- What operators did, and which providers they paused.

CREATE TABLE acts (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,                -- so that a replay is known for one
  at REAL NOT NULL,
  what TEXT NOT NULL,
  way TEXT NOT NULL,
  subject TEXT NOT NULL,
  facts TEXT NOT NULL                     -- JSON object
) STRICT;

CREATE TABLE paused (
  provider TEXT PRIMARY KEY,
  since REAL NOT NULL
) STRICT, WITHOUT ROWID;
