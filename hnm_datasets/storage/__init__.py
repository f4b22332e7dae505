"""Names of content and the files that are kept under them."""
