"""The documentation. `make` makes its generated pages."""
