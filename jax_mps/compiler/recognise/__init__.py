"""Ops in JAX's own primitives: one rule a family."""
