"""What is written per clip besides the table, for people and official tools."""
