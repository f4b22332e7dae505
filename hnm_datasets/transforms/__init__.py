"""The steps that go into `Dataset.map(..., batched=True)`: mine, score, filter, sample, shape."""
