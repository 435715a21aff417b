"""One HTML file about one or several runs, which needs nothing else: no network, no script.

gathering   what is read from the folders of runs
tables      the runs beside each other: results, problems, settings
texts       samples before and after, and token heat maps
page        the whole page
"""

from agents.reports.gathering import ReportedRun, read_runs, runs_of
from agents.reports.page import as_page

__all__ = ["ReportedRun", "as_page", "read_runs", "runs_of"]
