"""The self-test of a release: every operator of its graph, from given inputs, must give what it gave the builder.

inputs.py    what each operator is given
sketch.py    the numbers made from a seed, and the few numbers that stand for an output
rows.py      an operator's outputs as sketches, and how far two runs are apart
answers.py   records the known answers and checks them
"""
