"""The rows of a text environment, and what happens to them.

token_table   the tokens of all rows
starts        with which prompt an episode begins
stops         where it ends
scoring       when it is scored
transcripts   its text
infos         what the environment tells of it
"""
