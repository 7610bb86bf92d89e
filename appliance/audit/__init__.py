"""The record: an append-only Merkle log of every use, its signed checkpoints and the evidence drawn from it."""
