"""Our jobs beside the pipe `psql | kcat`, on the same servers, in one run. `make bench`."""
