"""Run a chain of steps in one call, report the results of each step, and store the report with the rows."""
