"""The demo model: a very small gpt-oss of our own, trained here to speak Harmony about this appliance.

    topics.toml, declines.toml, tools.toml, followups.toml   what it is taught, written by hand
    corpus.py                  reads them, and holds a tenth of the wordings out of training
    dialogues.py               makes dialogues from them     prompts.py   writes dialogues as Harmony tokens
    lessons.py, rewording.py   draw dialogues for training   words.py, vocabulary.py   the tokens it has rows for
    examination.py             the dialogues it is examined on              evaluate.py   which answers are right
    network.py, train.py       the model in torch, and its training
    weights.py, expand.py      weights.safetensors, and the full checkpoint made from it

Only training needs torch.
"""
