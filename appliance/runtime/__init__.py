"""The processes of a running site: who starts, watches and ends them."""
