"""What is reported of outcomes: a log record of each message that finally failed."""
