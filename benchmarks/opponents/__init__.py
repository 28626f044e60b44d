"""What Stockhold is measured against: row-lock SQL driven by pgbench, and the smallest HTTP servers there are."""
