-- What is scheduled is counted along this index; other messages are not in it.
CREATE INDEX messages_scheduled ON messages (stream, not_before, open_count)
  WHERE not_before > accepted_at AND open_count > 0;
