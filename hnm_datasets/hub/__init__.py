"""Share mined data: a folder, a push to the Hub, and the dataset card."""
