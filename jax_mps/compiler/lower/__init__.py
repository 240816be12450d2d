"""From equations to the nodes of a program."""
