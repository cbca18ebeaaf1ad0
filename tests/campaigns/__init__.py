"""Campaigns of faults: a short form with the other tests, the long form by `make campaign`."""
