"""The ONNX graph of a gpt-oss model, as docs/architecture.md describes it, without its data.

    plan.py      `plan_graph`: the graph, and what to store beside it
    model.py     the order of the computation, which both accelerators share
    cpu.py       our native operators (appliance/kernels), in float32
    cuda.py      ONNX Runtime's operators, in float16; the residual stream and the norms are float32
    builder.py   nodes and weights, one after the other

Nothing here reads or writes a file; `bundler.export` does. Weights are stored as published. Where an operator wants
another type or one joined matrix, nodes derive it from constants (Cast, Concat). ONNX Runtime folds such nodes when it
loads the session, if graph optimisation is at least at the basic level and
``optimization.constant_folding_max_output_size_in_bytes`` is 0. By default it does not fold results over 1 GiB and
computes them in every run.
"""
