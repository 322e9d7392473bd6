"""What became of messages, told to others: the report of what finally failed. Events later."""
