"""Everything that runs and describes a turn: one question to the model and its one answer.

request.py       what a turn is asked: messages, tools, settings; the one maker of requests
events.py        what a turn says: its events, and the sentence for each failure
engine.py        what the rest of the appliance may know of an engine
answer.py        the one fold of events into an answer, and the forms in which an answer is stored
run.py           record -> engine -> record
permits.py       ends a turn when the asker's access ends
running.py       runs the turns of conversations, and responses in the background, each in a thread
journal.py       the file of one running turn: its owner's side and its readers' side
files.py         the files of all running turns; closes the turns of dead processes
ended.py         the files of turns that are over, for readers who lost their stream
keeping.py       keeps the answer of a turn that is over in its conversation
interrupted.py   records an answer for each prompt whose process died
unkept.py        puts a recorded answer into its conversation, or ends its response, where that did not happen
typed.py         converts JSON values into declared types
"""
