"""Getting mail out: one dispatcher decides, and a lane a provider (limiter, breaker, provider)."""
