"""Drives a running Stockhold from outside, over HTTP, and sets it against what a good engineer would write by hand."""
