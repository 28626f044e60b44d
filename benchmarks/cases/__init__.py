"""One file per group of cases; `benchmarks.registry` is the table of all of them."""
