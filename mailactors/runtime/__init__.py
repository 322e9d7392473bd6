"""Actors without mail: mailboxes, cells, reply slots, supervision, and the ports to the world."""
