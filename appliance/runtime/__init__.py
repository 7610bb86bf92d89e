"""Starts, watches and ends the processes of a running site."""
