"""The program: what the compiler makes, the text form says, and the devices run."""
