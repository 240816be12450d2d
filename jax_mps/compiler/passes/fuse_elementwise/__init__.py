"""Elementwise nodes, reductions and views become chains."""
