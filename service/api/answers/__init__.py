"""What the API answers: the models that OpenAPI shows are the ones that write the JSON."""
