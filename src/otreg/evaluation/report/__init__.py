"""The report: `write_report` renders results into one HTML page."""

from otreg.evaluation.report.page import write_report

__all__ = ["write_report"]
