"""What the rooms tell each other through files. It imports the standard library alone; every room may import it."""
