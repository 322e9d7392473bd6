-- Kept sums, so that the ledger, the metrics and the backlog are read and not counted.

-- A row a stream and name: `accepted` and `declared_risks` of all messages ever, and deliveries by
-- state; `moving` are those that are ready, leased or sending. What was purged stays in the sums;
-- of what was purged before this file the stream is not known.
CREATE TABLE sums (
  stream TEXT NOT NULL,
  name TEXT NOT NULL,
  value INTEGER NOT NULL,
  PRIMARY KEY (stream, name)
) STRICT, WITHOUT ROWID;
INSERT INTO sums (stream, name, value)
  SELECT stream, name, sum(value) FROM (
    SELECT stream, 'accepted' AS name, recipients_total AS value FROM messages
    UNION ALL SELECT stream, 'declared_risks', declared_risks FROM messages
    UNION ALL SELECT stream,
      CASE WHEN state IN ('ready', 'leased', 'sending') THEN 'moving' ELSE state END, 1
      FROM deliveries
    UNION ALL SELECT '', state, deliveries FROM purged
    UNION ALL SELECT '', 'accepted', purged_accepted FROM spool
    UNION ALL SELECT '', 'declared_risks', purged_risks FROM spool
  ) GROUP BY stream, name HAVING sum(value) <> 0;
