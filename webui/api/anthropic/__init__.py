"""/v1/messages: the API of Anthropic's clients, as one more way of asking for a turn and of drawing its answer.

blocks         what a message's content may hold
conversation   messages of blocks -> the turn's messages
choices        tools, tool_choice, thinking and output_config
body           the fields of a request
request        a request -> a turn
present        an answer -> a message
stream         an answer -> events
shapes         the shapes of answers, events and errors
routes         the two addresses
"""
