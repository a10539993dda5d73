"""Languages of other products, presented over the same use cases as `/v1`."""
