"""Ways out: one file a vendor, behind one port. Adapters and transports, no policy."""
