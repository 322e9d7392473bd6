"""Mail as plain values: messages, deliveries, outcomes, and the renderer. Pure; knows no actor."""
