"""The commands of `bundler`, a module for each group of them. Each prints; the modules that it calls do not."""
