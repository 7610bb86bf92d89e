"""Checkpoints as people have them: what `bundler.checkpoint` needs to read more than the published layout.

recognise.py   what a path or file is if it is no checkpoint, in words
files.py       which tensors lie in which safetensors file
names.py       the names that training tools give to gpt-oss's tensors
readers.py     which stored tensors give each tensor of the published layout
experts.py     expert matrices in 16 bits, and their rounding to MXFP4
adapter.py     a LoRA adapter, and what it adds to each matrix
targets.py     which matrix each tensor of an adapter changes
lowrank.py     the product of two thin matrices that is added
"""
