"""The self-test behind python -m jax_mps doctor."""
