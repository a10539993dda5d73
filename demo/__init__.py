"""`python -m demo`: 336,776 real flights from Postgres to Kafka and to files, interrupted on purpose, and proved."""
