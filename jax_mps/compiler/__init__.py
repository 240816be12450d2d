"""The compiler: from a JAX function's trace to native programs. pipeline.py is the list of its steps."""
