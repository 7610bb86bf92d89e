"""What the details of an event hold: one frozen dataclass for each form, written to JSON and read back in one way.

codec.py      the base of all details; dataclass -> JSON values -> dataclass
kinds.py      which action has which details; what was stored -> details, or why they cannot be read
turns.py      questions and answers
denials.py    refusals
exchange.py   conversations that leave and enter as files
review.py     what reviewers did, findings and keys
site.py       the appliance's own life: starts, processes, the release, the packed weights
indexed.py    which words of a stored content the search index holds
"""
