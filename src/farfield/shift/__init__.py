"""Other distributions: retrieval, interventions, invariance, and how sure a model is where it saw nothing."""
