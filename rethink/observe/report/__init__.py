"""The report of a run: one HTML file that opens offline; the same facts as JSON and as a table."""

from rethink.observe.report.before_after_table import before_after_table
from rethink.observe.report.facts import report_data
from rethink.observe.report.page import write_report

__all__ = ["before_after_table", "report_data", "write_report"]
