"""Write the report: the page, the tables and the exports."""
