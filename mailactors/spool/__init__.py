"""The durable part: what was accepted, intended and decided. A service beside the flow."""
