"""A traced function as a flat list of equations, still in JAX's words."""
