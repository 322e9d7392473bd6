"""The simulator: the gateway's own actors in virtual time, on faults from a file, under judges."""
