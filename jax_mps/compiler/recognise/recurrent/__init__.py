"""Recurrent cells in scans: guessed, then proven over a finite field."""
