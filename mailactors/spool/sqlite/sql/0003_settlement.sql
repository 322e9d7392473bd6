-- Uncertain outcomes: what is known of each, and when to ask next.

-- A row for the deliveries that became uncertain with the same attempt, until none of them is
-- uncertain or held. It goes with the attempt that repeats it: its attempt_id is the latest one's.
CREATE TABLE doubts (
  seq INTEGER NOT NULL,
  attempt_id TEXT NOT NULL,
  provider TEXT NOT NULL,
  digest TEXT NOT NULL,                   -- of what its first intent was for
  recipients INTEGER NOT NULL,            -- how many its first intent was for
  began_at REAL NOT NULL,                 -- its first intent, from which on a key is remembered
  since REAL NOT NULL,                    -- when its first attempt was lost
  ended_at REAL NOT NULL,                 -- when its latest attempt was lost
  next_at REAL NOT NULL,                  -- when to see to it; infinite: not by itself
  repeats INTEGER NOT NULL DEFAULT 0,     -- tries to repeat it by its key
  looks INTEGER NOT NULL DEFAULT 0,       -- look-ups, whatever they came to
  failures INTEGER NOT NULL DEFAULT 0,    -- of those the latest that had no answer
  negatives INTEGER NOT NULL DEFAULT 0,   -- look-ups that count and found nothing
  negative_at REAL NOT NULL DEFAULT 0,    -- when the latest of those was asked
  answered_at REAL NOT NULL DEFAULT 0,    -- when the latest look-up was answered
  PRIMARY KEY (seq, attempt_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX doubts_due ON doubts (provider, next_at, seq);
INSERT INTO doubts (seq, attempt_id, provider, digest, recipients, began_at, since, ended_at, next_at)
  SELECT deliveries.seq, attempt_id, deliveries.provider, ifnull(attempts.digest, ''),
    ifnull(json_array_length(max(attempts.ns)), count(*)),
    ifnull(attempts.started_at, min(updated_at)), min(updated_at), max(updated_at), min(due_at)
  FROM deliveries LEFT JOIN attempts ON attempts.id = deliveries.attempt_id
  WHERE state IN ('uncertain', 'held') GROUP BY deliveries.seq, attempt_id;

-- How often a message was sent again though it may have been accepted; which provider left it open.
CREATE TABLE risks (
  stream TEXT NOT NULL,
  provider TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (stream, provider)
) STRICT, WITHOUT ROWID;
