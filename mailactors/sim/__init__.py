"""The simulator: the gateway's own actors in virtual time, under faults from a file."""
