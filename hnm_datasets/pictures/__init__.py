"""Pictures of negatives."""
