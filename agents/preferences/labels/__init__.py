"""Labels by people: pairs on the disk, the answers of several people, and the page that asks.

`agents.preferences.labels.labelling` is all of it but the page, which needs Gradio
(`agents.preferences.labels.page`).
"""

from agents.preferences.labels.answers import CHOICES
from agents.preferences.labels.labelling import Labelling, View

__all__ = ["CHOICES", "Labelling", "View"]
