"""The ops, one file for each family."""
