-- Suppressed addresses ignore case. `normal_address` is the program's own (`store/suppressions.py`).

CREATE TABLE suppressions_7 (
  address TEXT PRIMARY KEY,               -- as `normal_address` returns it
  reason TEXT NOT NULL,
  source TEXT NOT NULL,
  created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
-- Of entries that are the same now the first stands.
INSERT INTO suppressions_7 (address, reason, source, created_at)
  SELECT normal_address(address), reason, source, created_at FROM suppressions
  WHERE true ORDER BY created_at, address
  ON CONFLICT (address) DO NOTHING;
DROP TABLE suppressions;
ALTER TABLE suppressions_7 RENAME TO suppressions;
