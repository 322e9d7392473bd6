"""The HTTP API: routes, schemas, problem+json, and the server that carries them."""
