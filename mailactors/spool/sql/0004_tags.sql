-- Tags and metadata of a message, shown with it after its content is deleted, and found by tag.

-- JSON: [tags, metadata]; empty where a message has neither. Messages of before this file show none.
ALTER TABLE messages ADD COLUMN labels TEXT NOT NULL DEFAULT '';

-- A row a tag; a message without tags costs nothing here.
CREATE TABLE message_tags (
  tag TEXT NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY (tag, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX message_tags_message ON message_tags (seq);
