"""What is asked of a run: the scenario file, and how it fits the gateway's configuration."""
