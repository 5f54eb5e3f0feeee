"""Shared input and output without business words: settings, database, batching, outbox, audit, HTTP, tokens, logs."""
