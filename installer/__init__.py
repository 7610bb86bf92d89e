"""The isolated side's verifier: archive format, trust, store and releases. Imports nothing else of ours."""
