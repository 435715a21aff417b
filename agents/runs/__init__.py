"""A run as a folder: settings, log, completions, checkpoints, the agent, its evaluation.

train     a run from its beginning to its end
compare   several candidates on several seeds
options   what a run is made from
folder    the layout, and who may write there
recorder  what is written while an agent learns
log       progress.csv and TensorBoard, which go on after a break
signals   Ctrl-C and the like, at moments when nothing is half done
"""

from agents.runs.folder import RunFolder
from agents.runs.recorder import RunRecorder
from agents.runs.signals import Interrupted, Signals

__all__ = ["Interrupted", "RunFolder", "RunRecorder", "Signals"]
