"""The demo model: a very small gpt-oss of our own, trained here to speak Harmony about this appliance.

topics.toml, declines.toml, tools.toml, followups.toml   what it is taught, written by hand
corpus.py       reads them                   dialogues.py   makes dialogues of them; which are held out of training
prompts.py      dialogues as Harmony tokens  network.py, train.py   the model in torch, and its training
weights.py      weights.safetensors: written by training, read by `expand_demo_checkpoint`
evaluate.py     decides whether an answer is right
"""
