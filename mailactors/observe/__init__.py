"""What an operator sees: logs now, metrics and traces beside them. No room imports this one."""
