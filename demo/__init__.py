"""`stockhold demo`: a real retailer's year of shopping baskets, played as orders against a running Stockhold.

The data's way, one file each: `baskets` (what was bought) → `script` with `restocking` (what will happen, fixed by the
seed) → `driver` through `client` (makes it happen over HTTP) → `ledger` (what the answers promised) → `audit` (holds
the read API to it) → `story` and `report` (tell it). `stack` starts and stops the service, `run` puts it together.
"""
