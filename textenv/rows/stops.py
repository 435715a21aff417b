"""Which rows have just stopped, and which tokens would make sense next."""

from typing import Any

import numpy as np

from textenv.arrays import Array, to_tensor
from textenv.lm.early_stops import next_early_stops
from textenv.lm.stop_rule import StopRule
from textenv.rows.token_table import TokenTable


class Stops:
    """Finds the rows of a table that stop by a rule."""

    def __init__(self, rule: StopRule, table: TokenTable):
        self.rule, self.table = rule, table
        self._is_stop_token = table.arrays.convert(rule.is_stop_token)

    def after(self, actions: Array) -> Array:
        """Which rows stop with the tokens ``actions`` ``[B]`` just appended; ``[B]`` bool.

        The result may include rows that are no longer running.
        """
        stops = self._is_stop_token[actions]
        if self.rule.strings:
            stops = stops | self.table.arrays.convert(self._completed_strings())
        if self.rule.min_new_tokens:
            stops = stops & (self.table.response_lengths() >= self.rule.min_new_tokens)
        return stops

    def _completed_strings(self) -> np.ndarray:
        """Rows whose last token completes a stop string; text is decoded only if it may do so."""
        tail = self.rule.tail
        tokens, lengths, prompt_lengths, running = self.table.last_tokens(tail + 1)
        completed = np.zeros(len(tokens), np.bool_)
        begins = tail + 1 - np.minimum(lengths - prompt_lengths, tail)  # in `tokens`
        for row in np.flatnonzero(self.rule.may_complete[tokens[:, -1]] & running):
            begin, last = begins[row], tokens[row].tolist()
            before = last[begin - 1 : begin] if prompt_lengths[row] else []
            completed[row] = self.rule.text_ends(last[begin:], before)
        return completed


def action_masks(table: TokenTable, actions: Any, policy: Any = None) -> np.ndarray:
    """Which tokens of an action space make sense next, bool ``[B, vocabulary]``. Those that the
    ``sampling`` of a policy bans are False, too."""
    masks = np.ones((table.num_rows, int(actions.n)), np.bool_)
    masks[:, list(getattr(actions, "illegal", ()))] = False
    masks[:, list(getattr(getattr(policy, "sampling", None), "banned_tokens", ()))] = False
    early_stops = next_early_stops(table.stops(), to_tensor(table.lengths))
    if early_stops is not None:
        rows, at = (early_stops >= 0).cpu().nonzero(as_tuple=True)
        masks[rows, early_stops.cpu()[rows, at]] = False
    return masks
