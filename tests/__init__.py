"""The tests: unit, contract, integration, acceptance, fault, and the support that starts real servers."""
