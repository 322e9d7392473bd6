"""The providers: one file each, behind one port. They decide nothing of where a message goes."""
