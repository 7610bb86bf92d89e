"""The commands of `installer`, a module for each group of them. Each prints; the modules that it calls do not."""
