"""The drawing of a graphed function as SVG."""
