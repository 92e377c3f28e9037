"""Analysis: from records to tables, intervals, decisions and the report. Reads records only, and trains nothing."""
