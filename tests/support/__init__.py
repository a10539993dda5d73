"""Starters of real servers and helpers shared by the tests, the demo and the bench: no pytest in here."""
