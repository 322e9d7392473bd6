-- Retention, suppressions, retries by hand, and lists by recipient, state and stream.

-- The message of which this one is a retry by hand; that one may be purged by now.
ALTER TABLE messages ADD COLUMN retry_of TEXT NOT NULL DEFAULT '';
-- How many recipients its content was written for, where that is more than recipients_total: a
-- retry has only some of them, and a lane without an envelope of its own would reach them all.
ALTER TABLE messages ADD COLUMN envelope_total INTEGER NOT NULL DEFAULT 0;
-- When its last delivery became final.
ALTER TABLE messages ADD COLUMN final_at REAL;
-- What retention has not taken of it yet: 1 its content, 2 its key, 3 both.
ALTER TABLE messages ADD COLUMN kept INTEGER NOT NULL DEFAULT 3;
UPDATE messages SET final_at =
  (SELECT max(updated_at) FROM deliveries WHERE deliveries.seq = messages.seq)
  WHERE open_count = 0;

CREATE INDEX messages_final ON messages (kept, final_at) WHERE final_at IS NOT NULL;
CREATE INDEX messages_retries ON messages (retry_of) WHERE retry_of <> '';
CREATE INDEX messages_stream ON messages (stream);
-- By blocks of 1,024 messages: over all of them each new recipient would dirty a page of its own
-- somewhere, which costs as much as the rest of accepting it. A list looks into block after block.
CREATE INDEX deliveries_recipient ON deliveries (seq >> 10, recipient);
-- What is waiting has indices of its own, and most of the rest is 'sent'.
CREATE INDEX deliveries_unsent ON deliveries (state, seq)
  WHERE state IN ('held', 'bounced', 'failed', 'expired', 'suppressed', 'cancelled');
CREATE INDEX keys_message ON keys (seq);
CREATE INDEX attempts_unstarted ON attempts (finished_at) WHERE started_at IS NULL;

-- Who gets no mail. The domain is in lower case, the local part as it was given.
CREATE TABLE suppressions (
  address TEXT PRIMARY KEY,
  reason TEXT NOT NULL,
  source TEXT NOT NULL,
  created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- What the ledger must still account for when its messages are gone.
CREATE TABLE purged (
  state TEXT PRIMARY KEY,
  deliveries INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
ALTER TABLE spool ADD COLUMN purged_accepted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spool ADD COLUMN purged_risks INTEGER NOT NULL DEFAULT 0;

-- Reports of what finally failed: few, and followed by whoever tells an operator.
CREATE INDEX events_failures ON events (seq) WHERE kind = 'final_failure';
