"""Labels by people: pairs on the disk, the answers of several people, and the page that asks.

`agents.labels.labelling` is all of it but the page, which needs Gradio (`agents.labels.page`).
"""

from agents.labels.answers import CHOICES
from agents.labels.labelling import Labelling, View

__all__ = ["CHOICES", "Labelling", "View"]
