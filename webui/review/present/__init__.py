"""What the reviewer's pages show, as records for their templates: words and safe HTML made from events.

rows         the list of events, by day
event        one event: what was seen, the facts, the source
asked        a whole request as the model read it
written      whether a rendered answer shows everything that was written
unseen       text in which characters that nobody sees are named
words        actions, outcomes and the filter's choices in the reviewer's words
proof        whether an event is proved, checked now
report       what a verification of the whole record found
integrity    how the record stands: the badge, and the page behind it
"""
