"""Everything that runs and describes a turn: one question to the model and its one answer.

request.py   what a turn is asked: messages, tools, settings; the one maker of requests
events.py    what a turn says: its events, and the words for each way in which it may fail
engine.py    what the rest of the appliance may know of an engine
answer.py    the one fold of events into an answer, and the forms in which an answer is stored
run.py       record -> engine -> record
"""
