"""The formats in which mined data is kept, here and by other tools."""
