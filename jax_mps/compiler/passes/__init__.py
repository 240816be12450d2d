"""Passes: each a function from program to program, or of a program."""
