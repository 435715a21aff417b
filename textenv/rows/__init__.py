"""The rows of a text environment, and what happens to them.

token_table   the tokens of all rows
starts        with which prompt an episode begins
stops         which rows have just stopped, and which tokens make sense next
dialogue      what is replied to turns that have ended
scoring       when an episode is scored
transcripts   its text
infos         what the environment tells of it
"""
